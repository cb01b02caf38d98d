"""Forms, and whose they are: no other site may make a browser send one (request forgery).

1. the browser says where the form stood: Sec-Fetch-Site must be same-origin, and Origin this very origin. Pages here send
   no referrer, for which browsers write "Origin: null" on their own forms: that counts only beside Sec-Fetch-Site. Who says
   neither is no browser that we know, and is refused
2. within a session the form carries the session's token besides: either check alone would do
3. a form is application/x-www-form-urlencoded, at most MAX_FORM bytes and MAX_FIELDS members, none twice, UTF-8
"""

from __future__ import annotations

import hmac
from urllib.parse import parse_qsl

from starlette.requests import Request

from trustfed.errors import Denied, Invalid
from trustfed.hub.dashboard.sessions import Session

MAX_FORM = 32 << 10
MAX_FIELDS = 64


def check_origin(request: Request) -> None:
    """Denied unless the browser says that its own page sent this."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    # The Host was compared with the hub's names before (trustfed.hub.dashboard.security_headers).
    ours = f"https://{request.headers.get('host', '')}".lower()
    if site is not None and site != "same-origin":
        raise _foreign()
    if origin is None and site is None:
        raise _foreign()
    if origin is not None and origin.lower() != ours and not (origin == "null" and site == "same-origin"):
        raise _foreign()


def check_token(form: dict[str, str], session: Session) -> None:
    """Denied unless the form carries the token of the session that sends it."""
    if not session.csrf or not hmac.compare_digest(form.get("csrf", "").encode(), session.csrf.encode()):
        raise Denied("this form is not of this session", hint="open the page again and send it from there")


async def read_form(request: Request) -> dict[str, str]:
    """The members of a form. Raises Invalid."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Invalid("this is no form", hint="application/x-www-form-urlencoded")
    body = await request.body()
    if len(body) > MAX_FORM:
        raise Invalid(f"the form has more than {MAX_FORM} bytes", hint="shorten the reason")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            encoding="utf-8",
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise Invalid("the form cannot be read", hint="open the page again and send it from there") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise Invalid("the form names a member twice", hint="open the page again and send it from there")
    return form


def _foreign() -> Denied:
    return Denied("this request was not sent by a page of this dashboard", hint="open the page and send its own form")
