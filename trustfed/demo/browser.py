"""A reader of the dashboard: logs in by a one-time link as a browser would, and reads figures off pages. It blocks."""

from __future__ import annotations

import http.client
import re
import ssl
from html import unescape
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from trustfed.demo.door import ask
from trustfed.errors import Denied, Unavailable

TIMEOUT = 15.0
MAX_PAGE = 4 << 20
_FIELD = re.compile(r'<input type="hidden" name="([a-z]+)" value="([^"]*)">')
_FIGURE = re.compile(
    r'<dt>([^<]+)</dt>\s*<dd>(?:<a[^>]*>)?([^<]*)(?:</a>)?</dd>(?:\s*<dd class="note">([^<]*)</dd>)?', re.S
)
_ROW = re.compile(r'<th scope="row">.*?</tr>', re.S)
_TAG = re.compile(r"<[^>]+>")


def login_link(admin: Path, name: str, role: str = "viewer", ttl: str = "1h") -> str:
    """A URL that logs `name` in, once; what `trustfed hub login` prints."""
    return str(ask(admin, "POST", "/logins", {"name": name, "role": role, "ttl": ttl})["url"])


class Browser:
    """One session. `root` are the federation's roots as PEM, which the hub's certificate leads to."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cookie = ""

    def log_in(self, link: str) -> None:
        """Open the link's page and press its button. Raises Denied when that opens no session."""
        _, page = self._request(link, "GET", {}, None)
        fields = dict(_FIELD.findall(page))
        if "token" not in fields:
            raise Denied("the page behind the login link has no button", hint="was the link opened before?")
        parts = urlsplit(link)
        form = urlencode({name: unescape(value) for name, value in fields.items()})
        headers = {"Origin": f"https://{parts.netloc}", "Sec-Fetch-Site": "same-origin"}
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        answer, _ = self._request(f"https://{parts.netloc}{parts.path}", "POST", headers, form)
        cookie = answer.getheader("set-cookie", "").partition(";")[0]
        if answer.status != 303 or not cookie.startswith("__Host-"):
            raise Denied(f"the login was answered with status {answer.status}")
        self._cookie = cookie

    def read(self, url: str) -> str:
        """A page. Raises Denied when it is not given, Unavailable when the hub cannot be reached."""
        answer, page = self._request(url, "GET", {"Cookie": self._cookie} if self._cookie else {}, None)
        if answer.status != 200:
            raise Denied(f"{urlsplit(url).path} was answered with status {answer.status}", hint="log in again")
        return page

    def _request(
        self, url: str, method: str, headers: dict[str, str], body: str | None
    ) -> tuple[http.client.HTTPResponse, str]:
        parts = urlsplit(url)
        try:
            context = ssl.create_default_context(cafile=str(self._root))
            connection = http.client.HTTPSConnection(parts.netloc, timeout=TIMEOUT, context=context)
            connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
            answer = connection.getresponse()
            page = answer.read(MAX_PAGE).decode()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the dashboard cannot be reached: {error}") from error
        connection.close()
        return answer, page


def figures(page: str) -> dict[str, str]:
    """The figures at a page's head: "VALUE, NOTE" by label."""
    return {
        unescape(label).strip(): ", ".join(unescape(part).strip() for part in (value, note) if part.strip())
        for label, value, note in _FIGURE.findall(page)
    }


def row(page: str, name: str) -> str:
    """The words of the table row that `name` heads; "" where none does."""
    for found in _ROW.findall(page):
        words = " ".join(unescape(_TAG.sub(" ", found)).split())
        if name in words.split():
            return words
    return ""


def words(page: str) -> str:
    """All words of a page, without its marks."""
    return " ".join(unescape(_TAG.sub(" ", page)).split())
