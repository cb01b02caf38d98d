"""An edge node from a bucket, a root and AWS credentials to its first SVID; cut off from its cluster it reads the store."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.seaweed import PUBLISHER, READER, Credentials, seaweed
from tests.system.edge_world import EdgeAgent, EdgeCluster, EdgeStore
from tests.system.stack import Stack
from tests.unit.agent.world import ME
from trustfed.cli.main import main
from trustfed.errors import TrustfedError
from trustfed.reading import launch
from trustfed.reading.location import Location
from trustfed.reading.order import Found, Order, Wanted
from trustfed.runtime.files import write_atomic
from trustfed.spiffe.x509svid import parse_leaf


@pytest.fixture
async def cluster() -> AsyncIterator[EdgeCluster]:
    async with EdgeCluster() as made:
        made.put("e1", "/web", [ME])
        yield made


@pytest.fixture
def store(cluster: EdgeCluster) -> EdgeStore:
    made = EdgeStore()
    made.put(cluster)
    return made


async def test_from_a_bucket_to_the_first_svid(cluster: EdgeCluster, store: EdgeStore, tmp_path: Path) -> None:
    agent = EdgeAgent(tmp_path, store.url, store.tuf.root, "edge.test", "i-0abc")
    await agent.start()
    seconds, chain = await agent.first_svid()
    print(f"edge bootstrap to first SVID: {seconds:.2f} s")  # measured by make bench; here it is only shown
    assert str(parse_leaf(chain).id) == "spiffe://edge.test/web"
    assert cluster.node == "edge-i-0abc"
    assert (await agent.status())["node_id"] == "spiffe://edge.test/trustfed/node/edge-i-0abc"
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text()  # type: ignore[union-attr]
    assert not children.strip(), "the reader is gone"
    log = await agent.stop()
    assert "READERSECRET" not in log and "NOBODYSECRET" not in log
    assert (tmp_path / "data" / "store-seen").stat().st_mode & 0o777 == 0o700
    # Enrolled once, it begins without the store.
    again = EdgeAgent(tmp_path, "s3://no-such-bucket/x", store.tuf.root, "edge.test", "i-0abc")
    await again.start()
    assert (await again.first_svid())[1]
    await again.stop()


@pytest.mark.parametrize(
    ("change", "who", "code", "words"),
    [
        ({}, Credentials("NOSUCHKEY", "x"), 3, "STS refuses role"),
        ({"url": "s3://no-such-bucket/x"}, None, 4, "there is no bucket no-such-bucket"),
        ({"trust_domain": "other.test"}, None, 4, "the store has nothing of trust domain other.test"),
        ({"publication_key": "sha256:" + "0" * 64}, None, 3, "is pinned"),
        ({"root_file": "none.json"}, None, 2, "the store's root_file"),
    ],
    ids=["credentials", "bucket", "domain", "pin", "root"],
)
async def test_what_is_wrong_is_one_clear_error(
    cluster: EdgeCluster,
    store: EdgeStore,
    tmp_path: Path,
    change: dict[str, object],
    who: Credentials | None,
    code: int,
    words: str,
) -> None:
    settings = {"url": store.url, **change}
    url = str(settings.pop("url"))
    agent = EdgeAgent(tmp_path, url, store.tuf.root, "edge.test", "n1", **{"trust_domain": "edge.test", **settings})
    await (agent.start(who) if who else agent.start())
    ended, log = await asyncio.wait_for(agent.ended(), 20)
    assert (ended, words in log) == (code, True), log
    assert log.count("hint") <= 1 and "Traceback" not in log


async def test_a_tampered_store_is_refused(cluster: EdgeCluster, store: EdgeStore, tmp_path: Path) -> None:
    name = store.tuf.roles["edge.test"].files[0]
    store.tuf.files[name] = store.tuf.files[name][:-1] + b" "
    store.upload()
    agent = EdgeAgent(tmp_path, store.url, store.tuf.root, "edge.test", "n1")
    await agent.start()
    code, log = await asyncio.wait_for(agent.ended(), 20)
    assert code == 3 and "tampering or mix-and-match refused" in log


async def test_a_token_whose_address_is_gone_is_helped_by_the_store(
    cluster: EdgeCluster, store: EdgeStore, tmp_path: Path
) -> None:
    folder = tmp_path / "away"
    folder.mkdir()
    agent = EdgeAgent(folder, store.url, store.tuf.root, "", "n1")
    (folder / "agent.toml").write_text((folder / "agent.toml").read_text().replace("aws_iam", "join_token"))
    write_atomic(folder / "token", cluster.token(address="https://127.0.0.1:1").encode())
    await agent.start(join=folder / "token")
    assert (await agent.first_svid())[1]
    assert "the address in the token does not answer" in await agent.stop()


async def test_stopped_while_the_store_is_silent_it_ends_at_once(
    cluster: EdgeCluster, store: EdgeStore, tmp_path: Path
) -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(60)

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        agent = EdgeAgent(tmp_path, store.url, store.tuf.root, "edge.test", "n1", endpoint_url=endpoint)
        await agent.start()
        await asyncio.wait_for(asked.wait(), 20)
        begun = time.monotonic()
        assert "Traceback" not in await agent.stop()
        assert time.monotonic() - begun < 5
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


def ceremony(stack: Stack, patch: pytest.MonkeyPatch) -> bytes:
    """The first root of a stack's protected publication, by one person, on the command line."""
    patch.chdir(stack.folder)
    patch.setenv("TRUSTFED_HUB_SOCKET", str(stack.hub_admin.path))
    for words in (
        "keys --write online.json",
        "root key --write alice.pem",
        "root create --online online.json --key alice.pem.pub --threshold 1 --write 1.json",
        "root sign 1.json --key alice.pem",
        "root install 1.json",
    ):
        assert main(["publication", *words.split()]) == 0
    return (stack.folder / "1.json").read_bytes()


async def test_the_whole_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hub, cluster, S3, STS, reader and agent, all of them real: published, read, attested, served."""
    server, bucket = seaweed(), seaweed().bucket()
    secret = tmp_path / "s3-secret"
    write_atomic(secret, PUBLISHER.secret.encode())
    target = {
        "name": "cdn",
        "kind": "s3",
        "bucket": bucket,
        "prefix": "prod/",
        "endpoint_url": server.endpoint,
        "allow_loopback_http": True,
        "access_key_id": PUBLISHER.key,
        "secret_access_key_file": str(secret),
    }
    rule = {"arn": "arn:aws:sts::000000000000:assumed-role/EdgeReader/*", "node": "edge-{session}", "groups": ["edge"]}
    tables = {"attestation.aws_iam": {"sts_endpoint": server.endpoint}, "[attestation.aws_iam.rules]": rule}
    with Stack(tmp_path / "stack", hub={"[publication.targets]": target}) as stack:
        west = stack.cluster("prod-us-west", tables=tables)
        root = ceremony(stack, monkeypatch)
        west.entry("/ns/edge/sa/web", parent="group/edge", selectors=(ME,))
        at_once = Location(f"s3://{bucket}/prod", server.endpoint)
        order = Order(at_once, root, tmp_path / "seen", datetime.now(UTC), (Wanted("prod-us-west"),))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER.key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER.secret)
        published = await eventually_read(order)
        folder = tmp_path / "edge"
        folder.mkdir()
        agent = EdgeAgent(folder, at_once.url, root, "prod-us-west", "i-0abc")
        await agent.start()
        seconds, chain = await agent.first_svid()
        assert str(parse_leaf(chain).id) == "spiffe://prod-us-west/ns/edge/sa/web"
        (node,) = west.admin.get("/nodes")["nodes"]
        assert (node["name"], node["attestor"], node["groups"]) == ("edge-i-0abc", "aws_iam", ["edge"])
        assert "aws_iam" in json.loads(published.cluster)["attestors"]
        print(f"edge bootstrap to first SVID: {seconds:.2f} s")
        await agent.stop()


async def eventually_read(order: Order) -> Found:
    """What the store holds of the one domain wanted, once it does."""
    for _ in range(60):
        try:
            return (await launch.read_async(order)).one(order.domains[0].trust_domain)
        except TrustfedError as error:
            failure = error
            await asyncio.sleep(0.2)
    raise failure
