"""The observers' rules can fail: what each is there to find is found, and the right thing is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fakes.world import DomainWorld
from tests.system.faults.invariants import Book, Forgeries, Levels, check_answer, split
from trustfed.proto import workload_pb2 as pb
from trustfed.runtime.tls import KeyPair


async def worlds() -> tuple[DomainWorld, DomainWorld]:
    return await DomainWorld.make("west.test"), await DomainWorld.make("east.test")


def answer(world: DomainWorld, svid: KeyPair, bundle: bytes = b"", **federated: bytes) -> pb.X509SVIDResponse:
    key = svid.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    one = pb.X509SVID(
        spiffe_id=f"spiffe://{world.trust_domain}/work",
        x509_svid=b"".join(svid.chain),
        x509_svid_key=key,
        bundle=bundle or world.twin,
    )
    named = {f"spiffe://{name.replace('_', '.')}": data for name, data in federated.items()}
    return pb.X509SVIDResponse(svids=[one], federated_bundles=named)


def judged(made: pb.X509SVIDResponse, forgeries: Forgeries | None = None, later: float = 0.0) -> list[str]:
    """The rules that an answer breaks which comes `later` seconds from now."""
    book, at = Book(), datetime.now(UTC) + timedelta(seconds=later)
    check_answer(book, forgeries or Forgeries(), "agent", made, at, at)
    assert book.checks["expired"] == 1
    return [line.split("s  ", 1)[1].split(":")[0] for line in book.violations]


async def test_what_is_right_is_no_violation() -> None:
    west, east = await worlds()
    forgeries = Forgeries()
    forgeries.chains["east.test", "west.test"] = (await west.svid("/work")).chain
    assert judged(answer(west, await west.svid("/work", ttl=60), east_test=east.twin), forgeries) == []


async def test_an_expired_svid_is_found() -> None:
    west, _ = await worlds()
    svid = await west.svid("/work", ttl=60)
    assert judged(answer(west, svid), later=58) == []
    assert judged(answer(west, svid), later=61) == ["expired"]


async def test_an_authority_under_another_domains_name_is_found() -> None:
    west, east = await worlds()
    svid = await west.svid("/work")
    assert judged(answer(west, svid, east_test=west.twin)) == ["domain"]
    assert set(judged(answer(west, svid, bundle=west.twin + east.twin))) == {"domain"}


async def test_an_svid_that_its_own_bundle_refuses_is_found() -> None:
    west, other = await DomainWorld.make("west.test"), await DomainWorld.make("west.test")
    assert judged(answer(west, await west.svid("/work"), bundle=other.twin)) == ["domain"]


async def test_a_bundle_by_which_a_forgery_is_genuine_is_found() -> None:
    west, east = await worlds()
    forgeries = Forgeries()
    forgeries.chains["east.test", "west.test"] = (await east.svid("/work")).chain
    assert judged(answer(west, await west.svid("/work"), east_test=east.twin), forgeries) == ["domain"]


def test_a_level_that_falls_is_found_unless_it_was_too_new_to_be_kept() -> None:
    book = Book()
    levels = Levels(book)
    for level, at in (((1, 1), 0.0), ((1, 2), 10.0), ((2, 1), 20.0)):
        levels.saw("cluster", level, at)
        levels.saw("agent", level, at, 2.0)
    levels.saw("agent", (1, 2), 21.0, 2.0)
    assert book.violations == []
    levels.saw("cluster", (1, 9), 21.0)
    levels.saw("agent", (1, 1), 21.0, 2.0)
    assert [line.split("  ")[-1].split(":")[0] for line in book.violations] == ["backwards", "backwards"]
    assert levels.moved("cluster") == 4


def test_alike_violations_are_told_a_few_times() -> None:
    book = Book()
    for number in range(10):
        book.violated("expired", f"agent of prod-west gave an X509-SVID {number} s after its end")
    book.violated("expired", "agent of prod-east gave one too")
    assert len(book.violations) == 4


async def test_concatenated_certificates_are_taken_apart() -> None:
    west, east = await worlds()
    assert split(west.twin + east.twin) == [west.twin, east.twin] and split(b"") == []
