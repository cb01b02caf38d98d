"""A disk that can only be read, from one moment on, under a cluster that serves: clear refusals, and nothing half done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.hub import FakeHub
from tests.system.cluster_world import running
from trustfed.errors import Unavailable
from trustfed.journal.database import Database, Format
from trustfed.journal.sqlite import open_store


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[FakeHub]:
    made = await FakeHub.make()
    await made.start()
    yield made
    await made.stop()


async def test_a_disk_that_turns_read_only_refuses_clearly_and_nothing_is_half_done(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Database] = []
    prepare = Database._prepare

    def keeping(database: Database, form: Format) -> None:
        files.append(database)
        prepare(database, form)

    monkeypatch.setattr(Database, "_prepare", keeping)

    def disk(read_only: bool) -> None:  # SQLite's own answer to a write is then SQLITE_READONLY
        for database in files:
            if database._open:
                database._writer.execute(f"PRAGMA query_only = {int(read_only)}")

    async def issued() -> set[str]:
        found = (await cluster.ok("GET", "/issued?limit=1000"))["issued"]
        return {one["key"] for one in found if one["kind"] == "x509.issued"}

    async with running(tmp_path, hub) as cluster:
        node = await cluster.node()
        await cluster.entry("web")
        assert (await node.issue("web")).results[0].chain
        known = await issued()
        async with node.stream() as stream:
            await stream.until("hello")
            disk(read_only=True)
            late = {
                "id": "late",
                "spiffe_id": "spiffe://td-a/late",
                "parent": "group/default",
                "selectors": ["unix:uid:1"],
            }
            refused = await cluster.admin("POST", "/entries", late)
            assert refused.status_code == 503, refused.text
            assert "cannot be written; nothing was acknowledged" in refused.text
            assert "is the disk mounted read-only?" in refused.text
            with pytest.raises(Unavailable, match="cannot be written"):
                await node.issue("web")
            banned = await cluster.admin("POST", "/nodes/n1/ban", {"reason": "stolen"})
            assert banned.status_code == 503
            assert await issued() == known
            assert [one["id"] for one in (await cluster.ok("GET", "/entries"))["entries"]] == ["web"]
            assert (await cluster.admin("GET", "/ready")).status_code == 200
            disk(read_only=False)
            await cluster.entry("late")
            assert (await node.issue("web")).results[0].chain
            assert len(await issued()) == len(known) + 1
            disk(read_only=True)  # and stays so until the end, which is an orderly one
    store = open_store(tmp_path / "data" / "store")
    names = [record.event.kind for record in await store.journal.read(0, 1000)]
    assert (names.count("entry.put"), names.count("node.banned")) == (2, 0)
    await store.verify()
    await store.close()
