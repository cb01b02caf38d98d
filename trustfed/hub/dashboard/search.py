"""Search: from anything that names one thing to the page about it; from anything else to a list of what it may be.

 1. a SPIFFE ID of a known trust domain leads to the identity
 2. the name of a trust domain (a cluster has the same) leads to it
 3. a serial (8 to 40 hex digits, as the ledger or OpenSSL writes them) leads to the one identity that has it, as far as the
    hub knows; clusters are asked for the others
 4. everything else lists what contains the text

What was typed is shown again as text, and is never part of an address without being encoded.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from trustfed.errors import Invalid
from trustfed.hub.dashboard.frame import PREFIX, render, visit_of
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.views import Hit
from trustfed.spiffe.certificate import serial_said
from trustfed.spiffe.ids import SpiffeId

MAX_TEXT = 2_048
MAX_HITS = 50
_NAME = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)


async def search(request: Request) -> Response:
    """Jump, or list. Raises Invalid for text longer than any name."""
    text = request.query_params.get("q", "").strip()
    if len(text) > MAX_TEXT:
        raise Invalid(f"the search is longer than {MAX_TEXT} characters", hint="no SPIFFE ID is that long")
    fleet = visit_of(request).parts.fleet
    known = set(fleet.names)
    if spiffe_id := _spiffe_id(text):  # 1
        if spiffe_id.trust_domain.name in known:
            name = spiffe_id.trust_domain.name
            there = _identity(id=str(spiffe_id)) if spiffe_id.path else _domain(name)
            return RedirectResponse(there, 303)
    elif _NAME.fullmatch(text) and text in known:  # 2
        return RedirectResponse(_domain(text), 303)
    serial = serial_said(text)
    hits = (_found(fleet, serial) or _found(fleet, serial_said(text, 0))) if serial else _found(fleet, text)
    if serial:  # 3
        exact = {(hit.trust_domain, hit.where) for hit in hits if hit.kind == "serial" and hit.text == serial}
        if len(exact) == 1:
            return RedirectResponse(_identity(serial=serial, domain=exact.pop()[0]), 303)
    listed = [(hit, _address(hit)) for hit in hits]
    asked = [(name, _identity(serial=serial, domain=name)) for name in sorted(known)][:MAX_HITS] if serial else []
    title = "Search"
    context: dict[str, Any] = {"searched": text, "hits": listed, "asked": asked, "most": MAX_HITS, "serial": serial}
    return render(request, "search.html.jinja", title=title, question="Which of these did you mean?", **context)


def _found(fleet: Fleet, text: str) -> list[Hit]:
    return fleet.find(text, MAX_HITS)


def _spiffe_id(text: str) -> SpiffeId | None:
    try:
        return SpiffeId.parse(text)
    except Invalid:
        return None


def _address(hit: Hit) -> str:
    if hit.kind == "domain":
        return _domain(hit.trust_domain)
    if hit.kind == "serial":
        return _identity(serial=hit.text, domain=hit.trust_domain)
    return _identity(id=hit.text, domain=hit.trust_domain)


def _domain(name: str) -> str:
    return f"{PREFIX}/domain?{urlencode({'name': name})}"


def _identity(**query: str) -> str:
    return f"{PREFIX}/identity?{urlencode(query)}"
