"""[store] and [attest]: what they accept, what they refuse with one sentence, and the order that they make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.config import AgentConfig
from tests.fakes.tuf_store import TufStore
from trustfed.errors import Invalid, NotFound
from trustfed.reading.config import StoreConfig
from trustfed.reading.order import Wanted
from trustfed.runtime.config import build

NOW = datetime(2030, 5, 1, tzinfo=UTC)


def agent(tmp_path: Path, **tables: object) -> AgentConfig:
    return build({"data_dir": "d", "socket": "s", **tables}, AgentConfig, folder=tmp_path)


def test_a_store_becomes_an_order(tmp_path: Path) -> None:
    root = TufStore(NOW).root
    (tmp_path / "root.json").write_bytes(root)
    store = {
        "url": "s3://trust/prod",
        "root_file": "root.json",
        "trust_domain": "west.test",
        "accept_stale": "12h",
        "timeout": "4s",
        "endpoint_url": "https://s3.example",
        "addressing": "path",
        "ca_file": "ca.pem",
        "region": "eu-central-1",
        "role_arn": "arn:aws:iam::123456789012:role/R",
        "role_session_name": "edge-7",
        "sts_endpoint_url": "https://sts.example",
    }
    config = agent(tmp_path, store=store, attest={"kind": "aws_iam"}).store
    assert config is not None
    order = config.order(tmp_path / "d", NOW, (Wanted("west.test"),))
    assert (order.root, order.state, order.accept_stale) == (root, tmp_path / "d" / "store-seen", timedelta(hours=12))
    assert (order.location.bucket, order.location.endpoint) == (("trust", "prod/"), "https://s3.example")
    assert (order.location.aws.role_session_name, order.location.ca_file) == ("edge-7", str(tmp_path / "ca.pem"))
    assert (order.limits.seconds, order.limits.pause) == (4.0, 2.0)
    (tmp_path / "root.json").unlink()
    with pytest.raises(NotFound):
        config.order(tmp_path, NOW, ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "http://store.example/x"}, "not protected by TLS"),
        ({"url": "ftp://x"}, "no place for a store"),
        ({"url": "s3://UPPER/x"}, "is not s3://BUCKET"),
        ({"trust_domain": "No/Domain"}, "trust domain"),
        ({"publication_key": "abc"}, "64 hex digits"),
        ({"timeout": "1h"}, "1s to 10m"),
        ({"endpoint_url": "https://s3.example/path"}, "without a path"),
        ({"url": "https://x.example", "endpoint_url": "https://s3.example"}, "beside an s3:// url"),
        ({"web_identity_token_file": "t"}, "needs role_arn"),
        ({"role_session_name": "a b"}, "characters that AWS does not allow"),
        ({"region": "eu central"}, "not the name of a region"),
        ({"addressing": "odd"}, "addressing"),
        ({"endpoint": "https://x"}, "endpoint_url"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        agent(tmp_path, store={"url": "s3://trust", "root_file": "r", **change})


def test_an_aws_identity_needs_a_store_and_a_domain(tmp_path: Path) -> None:
    for tables in ({}, {"store": {"url": "s3://trust", "root_file": "r"}}):
        with pytest.raises(Invalid, match=r"needs \[store\] with trust_domain"):
            agent(tmp_path, attest={"kind": "aws_iam"}, **tables)


def test_a_store_alone_changes_nothing_about_enrolment(tmp_path: Path) -> None:
    found = agent(tmp_path, store={"url": "/mirror", "root_file": "r"})
    assert found.attest.kind == "join_token" and isinstance(found.store, StoreConfig)
