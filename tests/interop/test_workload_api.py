"""The agent's Workload API under the official clients of four languages, each in a process of its own.

Everything is real: hub, two clusters, a grant, an agent. SVIDs live for seconds, so that each client sees its own SVID
rotate on an open stream, and with it a change of the entry's federated domains and the arrival of a new authority.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.interop.programs import PROGRAMS, Finding
from tests.system.stack import Agent, Stack

WEST, EAST = "prod-us-west", "prod-us-east"
ID = f"spiffe://{WEST}/ns/web/sa/api"
AUDIENCE = f"spiffe://{EAST}/ns/shop/sa/orders"
SVIDS = 6  # distinct ones that each client waits for
ENTRY = {"parent": "node/node-1", "selectors": [f"unix:uid:{os.getuid()}"]}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        west = stack.cluster(WEST, svid_ttl="4s")
        stack.cluster(EAST)
        stack.grant(WEST, EAST)
        yield west.agent("node-1")


@pytest.fixture
def entry(agent: Agent) -> Iterator[str]:
    """The clients' registration entry, federated with every granted domain; its id."""
    made = agent.cluster.entry("/ns/web/sa/api", **ENTRY, federates_with=["*"])
    agent.wait_for(made["id"])
    yield str(made["id"])
    agent.cluster.admin.ask("DELETE", f"/entries/{made['id']}")


def active_authority(agent: Agent) -> str:
    """The id of the X.509 authority that signs now."""
    found = agent.cluster.admin.get("/authorities")["authorities"]
    (active,) = [a["id"] for a in found if a["kind"] == "x509" and a["status"] == "active"]
    return str(active)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_client_is_served_and_sees_rotation(name: str, agent: Agent, entry: str) -> None:
    program = PROGRAMS[name]
    program.ready()
    admin, active = agent.cluster.admin, active_authority(agent)
    serials: set[str] = set()

    def change(finding: Finding) -> None:
        """With its first SVID the entry is changed, with its second the domain's CA: open streams must bring both."""
        if finding["event"] != "x509" or finding["serial"] in serials:
            return
        serials.add(finding["serial"])
        if len(serials) == 1:
            admin.ask("PUT", f"/entries/{entry}", {"spiffe_id": ID, **ENTRY, "federates_with": []})
        elif len(serials) == 2:
            admin.post("/authorities/prepare", {"kind": "x509", "reason": "interoperation", "break_glass": True})

    endpoint = {"SPIFFE_ENDPOINT_SOCKET": agent.endpoint}
    outcome = program.run("watch", AUDIENCE, str(SVIDS), heard=change, **endpoint)
    assert outcome.code == 0, outcome.words

    def said(event: str) -> list[Finding]:
        return [finding for finding in outcome.findings if finding["event"] == event]

    both = {"bundles": [EAST, WEST]}
    assert said("x509-bundles") == [{"event": "x509-bundles", **both}]
    assert said("jwt-bundles") == [{"event": "jwt-bundles", **both}]
    assert said("jwt") == [{"event": "jwt", "id": ID, "local": ID, "validated": ID}]
    (refusal,) = said("jwt-refused")
    assert refusal["refused"]
    assert "invalid" in refusal["detail"].lower()

    pushed = said("x509")
    assert {line["id"] for line in pushed} == {ID}
    assert {line["chain"] for line in pushed} == {1}
    assert len({line["serial"] for line in pushed}) == SVIDS
    assert pushed[0]["bundles"] == [EAST, WEST]
    assert pushed[-1]["bundles"] == [WEST]
    assert any(later["authorities"] > earlier["authorities"] for earlier, later in pairwise(pushed))
    assert active_authority(agent) != active


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_client_without_an_identity_is_refused(name: str, agent: Agent) -> None:
    program = PROGRAMS[name]
    program.ready()
    outcome = program.run("watch", AUDIENCE, str(SVIDS), SPIFFE_ENDPOINT_SOCKET=agent.endpoint)
    assert outcome.code != 0
    assert outcome.findings == []
    assert "no identity is registered" in outcome.words


def test_go_fetches_the_bundle_from_the_spiffe_endpoint(agent: Agent, tmp_path: Path) -> None:
    program, cluster = PROGRAMS["go"], agent.cluster
    program.ready()
    known = tmp_path / "bundle.json"
    known.write_text(json.dumps(cluster.admin.get(f"/bundles/{WEST}?format=spiffe")))
    url, server = f"https://{cluster.bundle_endpoint}/bundle", f"spiffe://{WEST}/trustfed/cluster"
    outcome = program.run("fetch", url, server, str(known))
    assert outcome.code == 0, outcome.words
    (fetched,) = outcome.findings
    assert fetched["x509"] >= 1
    assert fetched["jwt"] >= 1
    assert fetched["sequence"] == json.loads(known.read_text())["spiffe_sequence"]

    another = program.run("fetch", url, f"spiffe://{WEST}/ns/web/sa/api", str(known))
    assert another.code != 0
    assert "unexpected ID" in another.words
