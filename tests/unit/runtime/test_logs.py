"""Logs: one event per line, nothing secret, nothing that pretends to be another line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trustfed.runtime import logs

Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure() -> Iterator[Configure]:
    root, ours = logging.getLogger(), logging.getLogger("trustfed")
    before = (list(root.handlers), root.level, ours.level, logging.raiseExceptions)

    def start(level: str = "debug", *, human: bool = False) -> io.StringIO:
        stream = io.StringIO()
        logs.configure(level, stream=stream, human=human)
        return stream

    yield start
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.raiseExceptions = before[3]


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_json_object_per_event(configure: Configure) -> None:
    stream = configure()
    logs.get("hub.rpc").info("grant accepted", grant="g1", epoch=3, forced=False, why=None)
    (event,) = events(stream)
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "info",
        "log": "hub.rpc",
        "message": "grant accepted",
        "grant": "g1",
        "epoch": 3,
        "forced": False,
        "why": None,
    }


@pytest.mark.parametrize("human", [False, True])
@pytest.mark.parametrize("evil", ["a\nb", 'a\r\n{"level":"error"}', "a\x1b[31m", "a\u2028b", "a\x00", "a\x85b"])
def test_values_cannot_begin_a_line(configure: Configure, human: bool, evil: str) -> None:
    stream = configure(human=human)
    logs.get("x").info(evil, value=evil)
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue() and "\x00" not in stream.getvalue()


@pytest.mark.parametrize(
    "name", ["key", "token", "join_token", "secret", "selectors", "Private_Key", "passphrase", "jwt", "authorization"]
)
def test_secret_fields_raise_in_tests(name: str) -> None:
    with pytest.raises(AssertionError, match="must not be used"):
        logs.get("x").debug("y", **{name: "hunter2"})
    with pytest.raises(AssertionError):
        logs.get("x").debug("y", data=b"bytes")
    with pytest.raises(AssertionError):
        logs.get("x").debug("y", level=1)


def test_secret_fields_are_withheld_in_production(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_STRICT", False)
    stream = configure()
    logs.get("x").info("y", token="hunter2", data=b"hunter2", key_id="k1", time="forged")
    (event,) = events(stream)
    assert event["withheld"] == "data,token" and event["key_id"] == "k1" and "hunter2" not in stream.getvalue()
    assert event["time"] != "forged"


def test_levels_and_other_peoples_logs(configure: Configure) -> None:
    stream = configure("warning")
    logs.get("x").info("not said")
    logs.get("x").warning("said")
    logging.getLogger("h2").info("not said")
    logging.getLogger("h2").warning("also %s", "said")
    assert [event["message"] for event in events(stream)] == ["said", "also said"]
    with pytest.raises(ValueError, match="loud"):
        logs.configure("loud")


def test_long_values_are_cut(configure: Configure) -> None:
    stream = configure()
    logs.get("x").info("y", value="v" * 100_000)
    assert len(stream.getvalue()) < 3_000


@pytest.mark.parametrize("human", [False, True])
def test_unexpected_errors_have_their_trace(configure: Configure, human: bool) -> None:
    stream = configure(human=human)
    try:
        raise RuntimeError("broken")
    except RuntimeError as error:
        logs.get("x").exception("it broke", error, error_id="e1")
    assert "RuntimeError: broken" in stream.getvalue() and "e1" in stream.getvalue()
    if not human:
        assert len(events(stream)) == 1


def test_human_line(configure: Configure) -> None:
    stream = configure(human=True)
    logs.get("hub").info("grant accepted", grant="g1", reason="two words")
    assert stream.getvalue()[8:] == ' info    hub: grant accepted  grant=g1  reason="two words"\n'


def test_a_closed_stream_is_survived(configure: Configure) -> None:
    configure().close()
    logs.get("x").info("nobody hears this")
