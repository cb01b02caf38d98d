"""Example configurations load; SVIDs and bundles in files are written and verified as they should be."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.config import AgentConfig
from ca.issuance import Issued, Issuer, LeafRequest, issue_x509
from tests.unit.hub.newcomer import Kept, Newcomer
from trustfed.cli import svidfiles, templates
from trustfed.cli.main import main
from trustfed.cluster.config import ClusterConfig
from trustfed.errors import Invalid
from trustfed.feed.config import FeedConfig
from trustfed.hub.config import HubConfig
from trustfed.proto import workload_pb2 as pb
from trustfed.runtime.config import load
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.bundle import Bundle, JwtAuthority
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.x509svid import pem

ID = "spiffe://prod-us-west/shop"


@pytest.mark.parametrize(
    ("words", "text", "kind"),
    [
        (("hub", "init"), templates.HUB, HubConfig),
        (("cluster", "init"), templates.CLUSTER, ClusterConfig),
        (("agent", "serve"), templates.AGENT, AgentConfig),
        (("feed", "serve"), templates.FEED, FeedConfig),
    ],
)
def test_example_configurations_load(
    words: tuple[str, str], text: str, kind: type[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert printed == text
    file = tmp_path / "c.toml"
    file.write_text(printed)
    assert isinstance(load(file, kind), kind)


@pytest.mark.parametrize(("noun", "text"), [("hub", templates.HUB), ("cluster", templates.CLUSTER)])
def test_check_says_what_would_listen(noun: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    assert main([noun, "serve", "--config", str(file), "--check"]) == 0
    out = capsys.readouterr().out
    assert "the configuration is good" in out and "grpc: 0.0.0.0:844" in out and "/run/trustfed/" in out
    file.write_text(text + 'surprise = "x"\n')
    assert main([noun, "serve", "--config", str(file), "--check"]) == 2
    assert "surprise" in capsys.readouterr().err


async def _answer() -> tuple[Newcomer, pb.X509SVIDResponse]:
    domain = await Newcomer.make("prod-us-west")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    issuer = Issuer.load(domain.trust_domain, domain.authority, "authority", domain.twins[0])
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    requests = [LeafRequest(SpiffeId.parse(ID), spki, 300)]
    (issued,) = await issue_x509(issuer, requests, domain.keys, Kept(), now=now, randomness=os.urandom)
    assert isinstance(issued, Issued), issued
    svid = pb.X509SVID(
        spiffe_id=ID,
        x509_svid=b"".join(issued.chain),
        x509_svid_key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        bundle=b"".join(domain.twins),
    )
    other = await Newcomer.make("bundle")  # a trust domain named like one of the files
    federated = {"spiffe://prod-eu-central": b"".join(domain.twins), "spiffe://bundle": b"".join(other.twins)}
    return domain, pb.X509SVIDResponse(svids=[svid], federated_bundles=federated)


async def test_written_svids_verify_in_their_own_bundle_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, answer = await _answer()
    folder = tmp_path / "id"
    svidfiles.write(answer, folder)
    assert sorted(file.name for file in folder.iterdir()) == [
        *("bundle.federated.pem", "bundle.pem", "key.pem", "prod-eu-central.pem", "svid.pem"),
    ]
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    words = ["svid", "verify", str(folder / "svid.pem"), "--bundle", str(folder / "bundle.pem"), "--trust-domain"]
    assert main([*words, "prod-us-west"]) == 0
    assert "spiffe://prod-us-west/shop" in capsys.readouterr().out
    assert main([*words, "prod-us-west", "--spiffe-id", "spiffe://prod-us-west/other"]) == 3
    assert main([*words, "prod-eu-central"]) == 2  # the bundle is not that domain's
    assert main([*words[:4], str(folder / "bundle.federated.pem"), "--trust-domain", "bundle"]) == 3


async def test_the_key_is_in_no_listing() -> None:
    _, answer = await _answer()
    said = svidfiles.line(answer, datetime.now(UTC), True) + str(svidfiles.rows(answer))
    assert "key" not in said and "authority" in said


def test_jwt_svids_are_for_an_audience(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    domain, key, now = TrustDomain("a"), ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    bundle = tmp_path / "a.json"
    bundle.write_bytes(Bundle(domain, (), (JwtAuthority("k", key.public_key()),)).marshal())
    token = tmp_path / "t"
    token.write_text(jwtsvid.sign(SpiffeId(domain, "/b"), "c", now, now + timedelta(minutes=1), key, kid="k"))
    words = ["svid", "verify", str(token), "--bundle", str(bundle), "--trust-domain", "a"]
    assert main([*words, "--audience", "c"]) == 0
    assert "spiffe://a/b" in capsys.readouterr().out
    assert main([*words, "--audience", "d"]) == 3
    assert main(words) == 2
    assert "--audience" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [1, 2, 3, 10])
def test_cut_certificates_are_named(cut: int) -> None:
    with pytest.raises(Invalid, match="cut short"):
        svidfiles.split(b"\x30\x82\x01\x00" + b"\x00" * 256 + b"\x30\x82\x01\x00"[:cut])


async def test_bundles_and_envelopes_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    domain = await Newcomer.make("prod-us-west")
    envelope = await domain.envelope()
    file, key = tmp_path / "e.json", tmp_path / "k.pem"
    file.write_bytes(envelope)
    key.write_bytes(domain.key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    words = ["bundle", "verify", str(file), "--trust-domain", "prod-us-west"]
    assert main([*words, "--publication-key", str(key)]) == 0
    assert "is signed by sha256:" in capsys.readouterr().out
    assert main(words) == 2
    assert "is an envelope" in capsys.readouterr().err
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    key.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert main([*words, "--publication-key", str(key)]) == 3
    key.write_text("nonsense")
    assert main([*words, "--publication-key", str(key)]) == 2


def test_pem_bundles_are_read(tmp_path: Path) -> None:
    file = tmp_path / "b.pem"
    file.write_bytes(pem([]) + b"nothing")
    with pytest.raises(Invalid, match="holds no certificate"):
        svidfiles.read_bundle(file, TrustDomain("a"))
