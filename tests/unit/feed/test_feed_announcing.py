"""An istiod that starts is told of every service once more, and nobody else is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.clocks import ManualClock
from tests.fakes.feed_house import until
from tests.fakes.routes import destination_rule, service_entry
from trustfed.demo.ports import free_port
from trustfed.feed.announcing import AFTER_SECONDS, LOOK_SECONDS, RENEW_SECONDS, Announcing, connect
from trustfed.feed.directory import ANNOUNCED, Directory, file_name
from trustfed.feed.intake import State
from trustfed.feed.resources import accept

ENTRY, RULE = service_entry("a"), destination_rule("a")
STATE = State({r.key: accept(r.key, r.version, 1, r.manifest) for r in (ENTRY, RULE)})
FIRST, SECOND = AFTER_SECONDS


class Held:
    """A connection to `Port`, by one life of the process behind it."""

    def __init__(self, port: Port) -> None:
        self._port, self._life, self.closed = port, port.life, False

    @property
    def ended(self) -> bool:
        return self._life != self._port.life or not self._port.open

    def close(self) -> None:
        self.closed = True


class Port:
    """istiod's xDS port in the hands of a test."""

    def __init__(self) -> None:
        self.open, self.life = False, 1
        self.given: list[Held] = []
        self.clock, self.announced = ManualClock(), 0
        self.announcing = Announcing(self.connect, self.announce, self.clock)

    async def connect(self) -> Held | None:
        if not self.open:
            return None
        self.given.append(Held(self))
        return self.given[-1]

    async def announce(self) -> None:
        self.announced += 1

    @property
    def held(self) -> int:
        return sum(not one.closed for one in self.given)

    @contextmanager
    def watched(self) -> Iterator[None]:
        running = asyncio.create_task(self.announcing.run())
        try:
            yield
        finally:
            running.cancel()


async def test_services_are_announced_twice_to_each_istiod_that_starts() -> None:
    port = Port()
    with port.watched():
        await port.clock.advance(60)
        assert port.announced == 0 and not port.announcing.up
        port.open = True
        await port.clock.advance(FIRST)
        assert port.announced == 0 and port.announcing.up
        await port.clock.advance(2 * LOOK_SECONDS)
        assert port.announced == 1
        await port.clock.advance(SECOND)
        assert port.announced == 2
        await port.clock.advance(600)  # nobody starts: nothing is said, few connections are held
        assert port.announced == 2 and port.held <= 2 and len(port.given) <= 2 + 610 / RENEW_SECONDS
        port.open = False
        await port.clock.advance(60)
        assert port.announced == 2 and port.held == 0 and not port.announcing.up
        port.open, port.life = True, 2
        await port.clock.advance(SECOND + 2 * LOOK_SECONDS)
        assert port.announced == 4


async def test_a_start_between_two_looks_is_seen_and_one_before_an_announcement_begins_anew() -> None:
    port = Port()
    port.open = True  # istiod was there before the feed
    with port.watched():
        await port.clock.advance(SECOND + LOOK_SECONDS)
        assert port.announced == 2
        port.life += 1  # it was never seen closed
        await port.clock.advance(LOOK_SECONDS + FIRST + LOOK_SECONDS)
        assert port.announced == 3
        port.life += 1  # before its second
        await port.clock.advance(LOOK_SECONDS + SECOND + LOOK_SECONDS)
        assert port.announced == 5
        for _ in range(100):  # one that ends again at once is not told
            port.life += 1
            await port.clock.advance(LOOK_SECONDS)
        assert port.announced == 5


async def test_an_istiod_that_ends_while_its_connection_is_replaced_is_missed_by_neither() -> None:
    port = Port()
    port.open = True
    with port.watched():
        await port.clock.advance(RENEW_SECONDS - LOOK_SECONDS)
        assert port.announced == 2 and len(port.given) == 1
        before = port.connect

        async def after_a_start() -> Held | None:
            port.life += 1
            return await before()

        port.announcing._connect = after_a_start
        await port.clock.advance(LOOK_SECONDS)
        port.announcing._connect = before
        await port.clock.advance(LOOK_SECONDS + SECOND + LOOK_SECONDS)
        assert port.announced == 4


async def test_a_connection_ends_with_the_server_and_a_closed_port_gives_none() -> None:
    address = f"127.0.0.1:{free_port()}"
    assert await connect(address) is None
    host, _, port = address.rpartition(":")
    accepted: list[asyncio.StreamWriter] = []

    async def settings(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0" * 9)  # istiod speaks first
        accepted.append(writer)

    server = await asyncio.start_server(settings, host, int(port))
    held, other = await connect(address), await connect(address)
    assert held and other
    await until(lambda: len(accepted) == 2, "both connections")
    other.close()
    await until(lambda: other.ended, "our end")
    assert not held.ended
    server.close()
    for writer in accepted:
        writer.close()
    await until(lambda: held.ended, "its end")
    held.close()


async def test_an_announcement_changes_service_entries_alone(tmp_path: Path) -> None:
    folder = tmp_path / "istio"
    directory = Directory(folder)
    directory.open()
    await directory.publish(STATE, None)
    rule = (folder / file_name(RULE.key)).stat().st_ino
    directory.announce()
    await directory.publish(STATE, None)
    assert number(folder) == "1" and (folder / file_name(RULE.key)).stat().st_ino == rule
    directory.close()
    # A feed that starts again changes no file, and counts on.
    again = Directory(folder)
    again.open()
    before = (folder / file_name(ENTRY.key)).stat().st_ino
    await again.publish(STATE, None)
    assert (folder / file_name(ENTRY.key)).stat().st_ino == before
    again.announce()
    await again.publish(STATE, None)
    assert number(folder) == "2"
    again.close()


def number(folder: Path) -> str:
    """The number of the last announcement in the file of a service; the rest of the file says what it said before."""
    document = json.loads((folder / file_name(ENTRY.key)).read_bytes())
    spec = json.loads(ENTRY.manifest)["spec"]
    assert document["spec"] == spec and document["metadata"]["name"] == "trustfed-a"
    return str(document["metadata"].get("annotations", {}).get(ANNOUNCED, ""))
