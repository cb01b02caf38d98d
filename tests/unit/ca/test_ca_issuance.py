"""X509-SVIDs in batches: what comes out, what is refused, and what is on record when things fail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca import der
from ca.issuance import Issued, LeafRequest, issue_x509, prepare
from ca.issuer import Issuer
from ca.profiles import NODE_SVID, SYSTEM_SVID, X509_SVID, LeafProfile
from tests.unit.ca.material import DAY, HOME, NOW, OTHER, SUFFIX, WEB, Domain, make_domain, seeded, spki
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError, Unavailable
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.verify import verify_x509_svid

HOUR = timedelta(hours=1)


def ask(spiffe_id: SpiffeId = WEB, **fields: object) -> LeafRequest:
    return LeafRequest(spiffe_id, **{"public_key": spki(), "ttl": 3600, **fields})  # type: ignore[arg-type]


async def issue(domain: Domain, *requests: LeafRequest, now: datetime = NOW) -> list[Issued | TrustfedError]:
    return await issue_x509(domain.issuer, requests, domain.keys, domain.recorder, now=now, randomness=seeded(99))


async def one(domain: Domain, request: LeafRequest, now: datetime = NOW) -> tuple[Issued, x509.Certificate]:
    (result,) = await issue(domain, request, now=now)
    if not isinstance(result, Issued):
        raise result
    return result, x509.load_der_x509_certificate(result.chain[0])


def home_bundle(domain: Domain) -> Bundle:
    return Bundle(HOME, (domain.issuer.twin,), (), 1, 300)


async def test_leaf_verifies_under_its_domain(domain: Domain) -> None:
    issued, leaf = await one(domain, ask(dns_names=(f"web.{SUFFIX}", SUFFIX)))
    assert len(issued.chain) == 1
    svid = verify_x509_svid(issued.chain, home_bundle(domain), NOW, expected=WEB)
    assert svid.id == WEB and svid.serial == int(issued.serial, 16)
    leaf.verify_directly_issued_by(x509.load_der_x509_certificate(domain.issuer.twin))
    assert domain.issuer.intermediate is not None
    leaf.verify_directly_issued_by(x509.load_der_x509_certificate(domain.issuer.intermediate))
    assert (issued.not_before, issued.not_after) == (NOW - timedelta(seconds=10), NOW + HOUR)
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (issued.not_before, issued.not_after)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical and [name.value for name in names.value] == [str(WEB), f"web.{SUFFIX}", SUFFIX]
    assert leaf.subject == x509.Name([])


async def test_root_chain_carries_the_intermediate(domain: Domain) -> None:
    issued, _ = await one(domain, ask(chain="root"))
    assert issued.chain[1:] == (domain.issuer.intermediate,)
    assert verify_x509_svid(issued.chain, home_bundle(domain), NOW).id == WEB


async def test_root_chain_waits_for_the_root() -> None:
    domain = await make_domain()
    issuer = Issuer.load(HOME, "a1", domain.issuer.key_name, domain.issuer.twin, dns_suffixes=(SUFFIX,))
    requests = [ask(chain="root"), ask()]
    refused, issued = await issue_x509(issuer, requests, domain.keys, domain.recorder, now=NOW, randomness=seeded())
    assert isinstance(refused, Unavailable) and isinstance(issued, Issued)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
async def test_ec_keys(domain: Domain, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    _, leaf = await one(domain, ask(public_key=spki(key)))
    assert leaf.public_key() == key.public_key()


async def test_rsa_keys(domain: Domain) -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    _, leaf = await one(domain, ask(public_key=data))
    assert leaf.public_key() == key


async def test_the_longest_id_fits(domain: Domain) -> None:
    path = "/" + "x" * (2048 - len(HOME.id) - 1)
    issued, _ = await one(domain, ask(SpiffeId.of(HOME, path)))
    assert verify_x509_svid(issued.chain, home_bundle(domain), NOW).id.path == path


async def test_lives_beyond_2049() -> None:
    now = datetime(2049, 12, 31, 23, 30, tzinfo=UTC)
    domain = await make_domain(now)
    _, leaf = await one(domain, ask(), now=now)
    assert leaf.not_valid_after_utc == now + HOUR


async def test_a_leaf_never_outlives_its_authority(domain: Domain) -> None:
    late = NOW + DAY - timedelta(minutes=5)
    _, leaf = await one(domain, ask(), now=late)
    assert leaf.not_valid_after_utc == NOW + DAY


async def test_a_leaf_never_outlives_the_intermediate() -> None:
    domain = await make_domain()
    shorter = await make_domain(life=HOUR, root=domain.root, keys=domain.keys, authority="a2")
    assert shorter.issuer.not_after == NOW + HOUR
    _, leaf = await one(shorter, ask(ttl=7200))
    assert leaf.not_valid_after_utc == NOW + HOUR


async def test_a_leaf_never_outlives_its_entry(domain: Domain) -> None:
    zone = timezone(timedelta(hours=5))
    _, leaf = await one(domain, ask(not_after_limit=(NOW + timedelta(minutes=7, microseconds=900)).astimezone(zone)))
    assert leaf.not_valid_after_utc == NOW + timedelta(minutes=7)


async def test_a_leaf_never_begins_before_its_authority(domain: Domain) -> None:
    _, leaf = await one(domain, ask(), now=NOW - timedelta(seconds=5))
    assert leaf.not_valid_before_utc == NOW - timedelta(seconds=10)


async def test_profiles_of_our_own_processes(domain: Domain) -> None:
    node = SpiffeId.of(HOME, "/trustfed/node/worker-7")
    cluster = SpiffeId.of(HOME, "/trustfed/cluster")
    for spiffe_id, profile in ((node, NODE_SVID), (cluster, SYSTEM_SVID)):
        issued, _ = await one(domain, ask(spiffe_id, profile=profile))
        assert issued.spiffe_id == spiffe_id


REFUSED: dict[str, tuple[LeafRequest, type[TrustfedError]]] = {
    "another trust domain": (ask(SpiffeId.of(OTHER, "/a")), Denied),
    "the trust domain itself": (ask(SpiffeId.of(HOME, "")), Invalid),
    "a reserved path for a workload": (ask(SpiffeId.of(HOME, "/trustfed/node/x")), Denied),
    "the reserved path itself": (ask(SpiffeId.of(HOME, "/trustfed")), Denied),
    "a workload's path for a node": (ask(profile=NODE_SVID), Denied),
    "a node below a node": (ask(SpiffeId.of(HOME, "/trustfed/node/a/b"), profile=NODE_SVID), Denied),
    "a node's path for a cluster": (ask(SpiffeId.of(HOME, "/trustfed/node/a"), profile=SYSTEM_SVID), Denied),
    "DNS outside the suffixes": (ask(dns_names=("evil.example.com",)), Denied),
    "DNS that only ends like a suffix": (ask(dns_names=("xwest.example.com",)), Denied),
    "a wildcard": (ask(dns_names=(f"*.{SUFFIX}",)), Invalid),
    "DNS in upper case": (ask(dns_names=(f"WEB.{SUFFIX}",)), Invalid),
    "DNS with a final dot": (ask(dns_names=(f"{SUFFIX}.",)), Invalid),
    "DNS with NUL": (ask(dns_names=(f"a\0.{SUFFIX}",)), Invalid),
    "DNS with a comma": (ask(dns_names=(f"a,DNS:b.{SUFFIX}",)), Invalid),
    "Unicode DNS": (ask(dns_names=(f"ä.{SUFFIX}",)), Invalid),
    "an IP address as DNS": (ask(dns_names=("10.0.0.1",)), Invalid),
    "the same DNS name twice": (ask(dns_names=(SUFFIX, SUFFIX)), Invalid),
    "too many DNS names": (ask(dns_names=tuple(f"n{n}.{SUFFIX}" for n in range(33))), Invalid),
    "no lifetime": (ask(ttl=0), Invalid),
    "a negative lifetime": (ask(ttl=-5), Invalid),
    "a lifetime of years": (ask(ttl=10**9), Invalid),
    "an entry that has ended": (ask(not_after_limit=NOW), Invalid),
    "an entry's end without time zone": (ask(not_after_limit=datetime(2040, 1, 1)), Invalid),  # noqa: DTZ001
    "an unknown chain": (ask(chain="all"), Invalid),
    "a weak key": (ask(public_key=spki(ec.generate_private_key(ec.SECP224R1()))), Invalid),
    "no key": (ask(public_key=b""), Invalid),
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_refuses_without_spoiling_the_batch(fault: str, domain: Domain) -> None:
    request, kind = REFUSED[fault]
    before, refused, after = await issue(domain, ask(), request, ask())
    assert isinstance(before, Issued) and isinstance(after, Issued)
    assert type(refused) is kind
    assert domain.recorder.keys == [before.serial, after.serial]


async def test_without_suffixes_no_dns_name_is_issued() -> None:
    domain = await make_domain(suffixes=())
    (refused,) = await issue(domain, ask(dns_names=("localhost",)))
    assert isinstance(refused, Denied)


async def test_one_record_and_one_signature_call_per_batch(domain: Domain) -> None:
    results = await issue(domain, *[ask(entry=f"e{n}", node="n1") for n in range(40)])
    assert len({r.serial for r in results if isinstance(r, Issued)}) == 40
    assert len(domain.recorder.batches) == 1
    assert domain.keys.recorded_at_sign == [40]  # all on record before the first signature


async def test_the_record_says_what_rotation_is_judged_by(domain: Domain) -> None:
    key = spki()
    request = ask(public_key=key, entry="e1", node="n1", instance="n1/e1", slot="s1", predecessor="ab", command_id="c1")
    issued, leaf = await one(domain, request)
    (draft,) = domain.recorder.batches[0]
    facts = draft.facts()
    assert draft.kind == "x509.issued" and draft.key == issued.serial and draft.at == NOW
    for name in ("entry", "node", "instance", "slot", "predecessor", "command_id"):
        assert facts[name] == getattr(request, name)
    assert facts["serial"] == f"{leaf.serial_number:032x}"
    assert facts["not_after"] == int(leaf.not_valid_after_utc.timestamp())
    assert "public_key" not in facts and "_tbs" not in repr(draft)


async def test_nothing_is_signed_when_the_record_fails(domain: Domain) -> None:
    domain.recorder.fail = True
    with pytest.raises(Unavailable, match="ledger"):
        await issue(domain, ask())
    assert domain.keys.recorded_at_sign == []


async def test_what_was_recorded_stays_so_when_signing_fails(domain: Domain) -> None:
    domain.keys.fail = True
    with pytest.raises(Unavailable, match="sealed"):
        await issue(domain, ask(), ask())
    assert len(domain.recorder.keys) == 2


async def test_a_draft_is_spent_once(domain: Domain) -> None:
    draft = prepare(domain.issuer, ask(), now=NOW, randomness=seeded())
    draft.spend()
    with pytest.raises(Conflict):
        draft.spend()


async def test_an_authority_signs_only_within_its_life(domain: Domain) -> None:
    for now in (NOW - timedelta(seconds=11), NOW + DAY, NOW + 2 * DAY):
        with pytest.raises(Unavailable):
            await issue(domain, ask(), now=now)
    assert domain.recorder.keys == []


async def test_another_key_under_the_same_name_signs_nothing(domain: Domain) -> None:
    await domain.keys.destroy(domain.issuer.key_name)
    await domain.keys.create(domain.issuer.key_name)
    with pytest.raises(Unavailable, match="not the key"):
        await issue(domain, ask())
    assert domain.recorder.keys == []


async def test_batches_are_bounded(domain: Domain) -> None:
    request = ask()
    with pytest.raises(Invalid):
        await issue(domain, *[request] * 1001)
    assert await issue(domain) == []
    assert domain.recorder.batches == []


async def test_serials_are_positive_whatever_the_randomness(domain: Domain) -> None:
    for byte in (b"\x00", b"\xff"):
        draft = prepare(domain.issuer, ask(), now=NOW, randomness=lambda n, byte=byte: byte * n)
        certificate = x509.load_der_x509_certificate(der.signed(draft.spend(), b"0\x06\x02\x01\x01\x02\x01\x01"))
        assert 0 < certificate.serial_number == draft.serial < 1 << 159


async def test_issuer_refuses_certificates_that_are_not_its_own(domain: Domain) -> None:
    twin, signed = domain.issuer.twin, domain.issuer.intermediate
    foreign = await make_domain(trust_domain=OTHER, root=domain.root, keys=domain.keys)
    again = await make_domain()
    cases: list[tuple[str, bytes, bytes | None]] = [
        ("a2", twin, signed),
        ("a1", foreign.issuer.twin, None),
        ("a1", twin, foreign.issuer.intermediate),
        ("a1", twin, again.issuer.intermediate),  # the same names, another key
        ("a1", domain.root.certificate, None),
        ("a1", b"nonsense", None),
    ]
    for authority, anchor, intermediate in cases:
        with pytest.raises(Invalid):
            Issuer.load(HOME, authority, "k", anchor, intermediate=intermediate)
    with pytest.raises(Invalid):
        Issuer.load(HOME, "a1", "k", twin, dns_suffixes=("*",))


def test_profiles_stay_below_their_bounds() -> None:
    for profile in (X509_SVID, NODE_SVID, SYSTEM_SVID):
        assert isinstance(profile, LeafProfile) and profile.default_lifetime <= profile.max_lifetime
