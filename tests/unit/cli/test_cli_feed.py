"""`trustfed feed`: what it asks the cluster and the feed, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.test_cli_doors import Door, door, run
from trustfed.errors import Denied, NotFound

__all__ = ["door"]
ID = "spiffe://west/ns/istio-system/sa/trustfed-feed"


def test_who_may_be_a_feed_is_said_to_the_cluster(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("POST", "/mesh/feeds/allow", {"spiffe_id": ID, "allowed": True})
    door.answer("POST", "/mesh/feeds/forbid", NotFound(f"{ID} is not an allowed feed", hint="trustfed feed list"))
    shown = {"spiffe_id": ID, "connected": True, "current": True, "output": "directory", "readers": 0, "rejected": {}}
    door.answer("GET", "/mesh/feeds", {"feeds": [shown | {"heard_at": None}]})
    door.open()
    where = ("--socket", str(door.path))
    assert run(capsys, "feed", "allow", ID, "--reason", "istiod-0", *where) == (0, f"{ID} may pull the routes\n", "")
    assert door.asked == [("POST", "/mesh/feeds/allow", {"spiffe_id": ID, "reason": "istiod-0"})]
    code, out, err = run(capsys, "feed", "forbid", ID, *where)
    assert code == 4 and not out and "hint: trustfed feed list" in err
    code, out, _ = run(capsys, "feed", "list", "--output", "json", *where)
    assert code == 0 and json.loads(out)[0]["spiffe_id"] == ID
    code, out, _ = run(capsys, "feed", "list", *where)
    assert code == 0 and "trustfed-feed" in out and "directory" in out


def test_a_feed_is_shown(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("GET", "/status", {"routes": {"known": True, "resources": 3, "age_seconds": 5}})
    door.answer("GET", "/resources", {"resources": [{"resource": "ServiceEntry/ns/trustfed-a", "version": "00"}]})
    door.open()
    where = ("--socket", str(door.path))
    code, out, _ = run(capsys, "feed", "status", *where)
    assert code == 0 and "routes age seconds" in out
    code, out, _ = run(capsys, "feed", "status", "--of", "resources", *where)
    assert code == 0 and "ServiceEntry/ns/trustfed-a" in out
    code, _, err = run(capsys, "feed", "status", "--of", "moon", *where)
    assert code == 2 and "one of: status, resources" in err


def test_nobody_there_and_not_allowed(door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "feed", "status", "--socket", str(tmp_path / "none"))
    assert code == 6 and "the feed's admin socket" in err and "TRUSTFED_FEED_SOCKET" in err
    door.answer("POST", "/mesh/feeds/allow", Denied("spiffe://east/x is not of west"))
    door.open()
    code, _, err = run(capsys, "feed", "allow", "spiffe://east/x", "--socket", str(door.path))
    assert code == 3 and "is not of west" in err
    code, _, err = run(capsys, "feed", "serve")
    assert code == 2 and "--print-config" in err
