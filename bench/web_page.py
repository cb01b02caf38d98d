"""The hub's dashboard as a browser has it: logged in by a one-time link, one connection kept, events followed."""

from __future__ import annotations

import html
import re
import threading
import time
from urllib.parse import urlsplit

import httpx

from bench.procs import BenchError

LIMIT = 30.0
FIRST = "/dashboard/"
_COUNT = re.compile(r"Identities in use</dt>.*?<dd[^>]*>.*?([0-9][0-9,]*)", re.S)
_REFERRED = re.compile(r"(?:href|src)=\"(/dashboard/static/[^\"]+)\"")


class Page:
    """The first page; use it in a `with` block."""

    def __init__(self, link: str) -> None:
        parts = urlsplit(link)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        # Loopback only, and the certificate is one that the bench's hub made for itself.
        self._client = httpx.Client(base_url=self._origin, verify=False, trust_env=False, timeout=LIMIT)  # noqa: S501
        self._changed = threading.Condition()
        self._count, self._at_ns, self._ended = 0, 0, False
        self._log_in(link)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._client.close()

    @property
    def count(self) -> int:
        """The number of identities that it shows."""
        return self._count

    def seconds(self) -> float:
        """How long it takes to come."""
        begun = time.perf_counter()
        self._get(FIRST)
        return time.perf_counter() - begun

    def size(self) -> tuple[int, int]:
        """Bytes as they are transferred: of the page, and with everything that it refers to."""
        with self._client.stream("GET", FIRST) as answer:
            page = answer.read().decode()
            own = answer.num_bytes_downloaded
        whole = own
        for path in dict.fromkeys(_REFERRED.findall(page)):
            with self._client.stream("GET", path) as answer:
                answer.read()
                whole += answer.num_bytes_downloaded
        return own, whole

    def follow(self) -> None:
        """Read it again whenever it is told of news, from now on."""
        self._count = self._read()
        threading.Thread(target=self._follow, daemon=True).start()

    def until(self, count: int, limit: float) -> int:
        """The Unix time in nanoseconds at which it showed at least `count`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._count >= count, limit):
                raise BenchError(f"the dashboard did not show {count} identities within {limit:.0f} s")
            return self._at_ns

    def _log_in(self, link: str) -> None:
        form = next(one for one in re.findall(r"<form.*?</form>", self._get(link), re.S) if "/login/link" in one)
        hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form)
        sent = {"Origin": self._origin, "Sec-Fetch-Site": "same-origin"}
        fields = {name: html.unescape(value) for name, value in hidden}
        if self._client.post("/dashboard/login/link", data=fields, headers=sent).status_code != 303:
            raise BenchError("the dashboard let nobody in")

    def _get(self, path: str) -> str:
        try:
            answer = self._client.get(path)
        except httpx.HTTPError as error:
            raise BenchError(f"the dashboard did not answer: {error}") from error
        if not answer.is_success:
            raise BenchError(f"the dashboard answered {answer.status_code}")
        return answer.text

    def _read(self) -> int:
        found = _COUNT.search(self._get(FIRST))
        if found is None:
            raise BenchError("the dashboard's first page shows no number of identities")
        return int(found[1].replace(",", ""))

    def _follow(self) -> None:
        try:
            with self._client.stream("GET", "/dashboard/events?names=standing") as stream:
                for line in stream.iter_lines():
                    if line.startswith("data:"):
                        self._told(self._read())
        except (httpx.HTTPError, httpx.StreamError, BenchError, RuntimeError):
            if not self._ended:
                raise

    def _told(self, count: int) -> None:
        with self._changed:
            if count > self._count:
                self._count, self._at_ns = count, time.time_ns()
                self._changed.notify_all()
