"""The hub as a real process, spoken to through its real doors: TLS on loopback, the admin socket, gRPC by grpcio."""

from __future__ import annotations

import asyncio
import base64
import resource
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.system.hub_world import Cluster, HubProcess
from tests.unit.hub.newcomer import Newcomer
from trustfed.federation import roots
from trustfed.federation.token import EnrolmentToken
from trustfed.proto import federation_pb2 as pb
from trustfed.spiffe.bundle import Bundle, BundleMap
from trustfed.spiffe.ids import TrustDomain

ALONE = {"reason": "a test of one person", "break_glass": True}  # what takes two people


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One hub for all tests that leave it usable."""
    process = _hub(tmp_path_factory.mktemp("hub"))
    yield process
    assert process.stop() == 0


@pytest.fixture
def own(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub for one test that kills it, fills its disk, or rolls its root over."""
    process = _hub(tmp_path)
    yield process
    if process.process is not None and process.process.poll() is None:
        assert process.stop() == 0


def _hub(folder: Path, extra: str = "") -> HubProcess:
    process = HubProcess(folder, extra)
    made = process.run("init")
    assert made.returncode == 0, made.stderr
    process.start()
    return process


# Enrolment


async def test_enrolment_gives_the_same_key_the_same_answer(hub: HubProcess) -> None:
    cluster = Cluster(hub, await Newcomer.make("enrol-same"))
    token = hub.invite("enrol-same", suffixes=["same.example"])
    first = await cluster.enrol(token)
    assert first.status_code == 200, first.text
    assert first.json()["suffixes"] == ["same.example"]
    assert first.json()["hub"]["grpc"] == hub.addresses["grpc"]
    again = await cluster.enrol(token)
    assert again.json()["intermediate"] == first.json()["intermediate"]


async def test_enrolment_refuses_another_key(hub: HubProcess) -> None:
    token = hub.invite("enrol-other")
    assert (await Cluster(hub, await Newcomer.make("enrol-other")).enrol(token)).status_code == 200
    refused = await Cluster(hub, await Newcomer.make("enrol-other")).enrol(token)
    assert refused.status_code == 403
    assert "used with another publication key" in refused.json()["detail"]
    assert token not in refused.text


async def test_of_many_at_once_with_one_token_one_gets_in(hub: HubProcess) -> None:
    token = hub.invite("enrol-race")
    rivals = [Cluster(hub, await Newcomer.make("enrol-race")) for _ in range(6)]
    answers = await asyncio.gather(*(rival.enrol(token) for rival in rivals))
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403, 403, 403]
    assert len(hub.admin("GET", "/domains/enrol-race").json()["intermediates"]) == 1


async def test_enrolment_refuses_an_expired_token(hub: HubProcess) -> None:
    token = hub.invite("enrol-late", ttl="1s")
    await asyncio.sleep(1.1)
    refused = await Cluster(hub, await Newcomer.make("enrol-late")).enrol(token)
    assert refused.status_code == 403
    assert "expired" in refused.json()["detail"]


async def test_enrolment_refuses_what_does_not_fit_the_token(hub: HubProcess) -> None:
    token = hub.invite("enrol-fit")
    good = await Newcomer.make("enrol-fit")
    stranger = await Newcomer.make("enrol-stranger")
    request = await good.enrolment(token)
    cases: dict[str, tuple[dict[str, str], int]] = {
        "another domain's name": (await stranger.enrolment(token), 403),
        "a proof of other content": ({**request, "authority_id": "0" * 16}, 403),
        "another domain's envelope": (await good.enrolment(token, envelope=await stranger.envelope()), 403),
        "an envelope without the authority": (await good.enrolment(token, envelope=await good.envelope(twins=[])), 400),
        "a missing member": ({name: value for name, value in request.items() if name != "csr"}, 400),
        "an unknown member": ({**request, "extra": "x"}, 400),
        "a token cut short": ({**request, "token": token[:-20]}, 400),
    }
    for name, (body, status) in cases.items():
        answer = await asyncio.to_thread(hub.https, "POST", "/v1/enrol", body)
        assert answer.status_code == status, (name, answer.text)
        assert answer.json()["detail"], name
    oversize = await asyncio.to_thread(hub.https, "POST", "/v1/enrol", {**request, "csr": "A" * 300_000})
    assert oversize.status_code == 413
    assert hub.admin("GET", "/domains/enrol-fit").json()["status"] == "invited"
    assert (await Cluster(hub, good).enrol(token)).status_code == 200


async def test_a_cluster_without_a_valid_svid_is_signed_for_by_its_publication_key(hub: HubProcess) -> None:
    cluster = await Cluster.enrolled(hub, "resign")
    nonce = hub.https("GET", "/v1/nonce").json()["nonce"]
    request = await cluster.domain.resign(nonce)
    answer = await asyncio.to_thread(hub.https, "POST", "/v1/resign", request)
    assert answer.status_code == 200, answer.text
    assert base64.b64decode(answer.json()["intermediate"]) == cluster.domain.intermediate  # the same CSR
    replayed = await asyncio.to_thread(hub.https, "POST", "/v1/resign", request)
    assert replayed.status_code == 403
    stranger = await Newcomer.make("resign")
    forged = await stranger.resign(hub.https("GET", "/v1/nonce").json()["nonce"])
    assert (await asyncio.to_thread(hub.https, "POST", "/v1/resign", forged)).status_code == 403


# The stream


async def test_envelopes_reach_importers_byte_for_byte_and_levels_come_back(hub: HubProcess) -> None:
    west, east = await Cluster.enrolled(hub, "relay-west"), await Cluster.enrolled(hub, "relay-east")
    grant = hub.grant("relay-east", "relay-west")
    async with east.stream() as importing, west.stream() as exporting:
        offered = await importing.until("grant", id=grant)
        assert (offered.state, offered.exporter_publication_key) == ("offered", west.domain.key.spki)
        assert (await exporting.until("grant", id=grant)).state == "offered"
        accepted = await east.decide(grant, "accept", west.domain.key.fingerprint)
        assert accepted.state == "accepted"
        first = await importing.until("envelope")
        assert first.trust_domain == "relay-west"
        unheard = await exporting.until("consumer", importer="relay-east")
        assert (unheard.level.epoch, unheard.level.sequence) == (0, 0)
        assert unheard.live_until_ms > 0
        news = await west.domain.envelope()
        await exporting.send(envelope=news)
        stored = await exporting.until("stored")
        while (stored.level.epoch, stored.level.sequence) != (1, west.domain.sequence):
            stored = await exporting.until("stored")
        received = await importing.until("envelope")
        assert received.envelope == news
        level = pb.Level(trust_domain="relay-west", epoch=1, sequence=west.domain.sequence)
        await importing.send(acknowledge=pb.Acknowledge(level=level, laggards=["node-7"], laggard_count=1))
        said = await exporting.until("consumer")
        while said.level.sequence != west.domain.sequence:
            said = await exporting.until("consumer")
        assert (said.importer, list(said.laggards), said.laggard_count) == ("relay-east", ["node-7"], 1)
        clusters = {one["trust_domain"]: one for one in hub.admin("GET", "/clusters").json()["clusters"]}
        assert clusters["relay-east"]["connected"]
        assert clusters["relay-east"]["imports"][0]["current"]


async def test_who_has_no_grant_gets_nothing_and_an_ended_grant_ends_the_flow(hub: HubProcess) -> None:
    west, east = await Cluster.enrolled(hub, "end-west"), await Cluster.enrolled(hub, "end-east")
    grant = hub.grant("end-east", "end-west")
    async with east.stream() as importing, west.stream() as exporting:
        await importing.until("snapshot_end")
        await exporting.until("snapshot_end")
        await exporting.send(envelope=await west.domain.envelope())
        await exporting.until("stored")
        assert "envelope" not in await importing.quiet()  # offered is not accepted
        await east.decide(grant, "accept", west.domain.key.fingerprint)
        await importing.until("envelope")
        ended = await west.decide(grant, "end", reason="the project is over")
        assert ended.state == "ended"
        assert (await importing.until("grant", state="ended")).ended_reason == "the project is over"
        await exporting.send(envelope=await west.domain.envelope())
        assert "envelope" not in await importing.quiet()
        with pytest.raises(grpc.aio.AioRpcError) as again:
            await east.decide(grant, "accept", west.domain.key.fingerprint)
        assert again.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_stream_resumes_by_position_and_starts_anew_for_another_instance(hub: HubProcess) -> None:
    west, east = await Cluster.enrolled(hub, "resume-west"), await Cluster.enrolled(hub, "resume-east")
    grant = hub.grant("resume-east", "resume-west")
    await east.decide(grant, "accept", west.domain.key.fingerprint)
    async with east.stream() as stream:
        hello = await stream.until("hello")
        assert hello.snapshot
        await stream.until("snapshot_end")
        kinds = [message.WhichOneof("message") for message in stream.seen]
        assert kinds[0] == "hello" and {"grant", "envelope", "root_set", "stored"} <= set(kinds)
        east.position, east.instance = stream.seen[-1].position, hello.hub_instance
    async with east.stream(root_version=1) as stream:
        assert not (await stream.until("hello")).snapshot
        assert set(await stream.quiet()) <= {"stored", "crl"}  # nothing changed: nothing is sent again
    async with west.stream() as stream:
        await stream.send(envelope=await west.domain.envelope())
        await stream.until("snapshot_end")
        await stream.until("stored")
    async with east.stream(root_version=1) as stream:
        assert (await stream.until("envelope")).trust_domain == "resume-west"
        assert "grant" not in [message.WhichOneof("message") for message in stream.seen]
    async with east.stream(hub_instance="another", root_version=1) as stream:
        assert (await stream.until("hello")).snapshot
    async with east.stream(position=10**6, root_version=1) as stream:
        assert (await stream.until("hello")).snapshot


async def test_envelopes_that_do_not_continue_are_refused_at_the_door(hub: HubProcess) -> None:
    cluster = await Cluster.enrolled(hub, "door")
    first = await cluster.domain.envelope()
    second = await cluster.domain.envelope()
    other = await Newcomer.make("door")
    other.sequence = cluster.domain.sequence
    cases = {
        "replayed": (first, grpc.StatusCode.PERMISSION_DENIED, "goes back"),
        "a fork": (await cluster.domain.envelope(step=0, hint=61), grpc.StatusCode.PERMISSION_DENIED, "another body"),
        "another key": (await other.envelope(), grpc.StatusCode.PERMISSION_DENIED, "pinned"),
        "garbage": (b"{}", grpc.StatusCode.INVALID_ARGUMENT, "members"),
        "oversize": (b"x" * 1_600_000, grpc.StatusCode.INVALID_ARGUMENT, "bytes"),
    }
    async with cluster.stream() as stream:
        await stream.send(envelope=second)
        await stream.until("stored", level=pb.Level(trust_domain="door", epoch=1, sequence=cluster.domain.sequence))
        await stream.send(envelope=second)  # the same again is no error
        await stream.until("stored")
    for name, (data, code, words) in cases.items():
        async with cluster.stream() as stream:
            await stream.send(envelope=data)
            refused, details = await stream.refused()
            assert (refused, words in details) == (code, True), (name, refused, details)
    async with cluster.stream() as stream:
        await stream.send(envelope=b"x" * 3_000_000)
        assert (await stream.refused())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    level = hub.admin("GET", "/domains/door").json()["level"]
    assert level == {"epoch": 1, "sequence": cluster.domain.sequence}


async def test_streams_that_do_not_keep_the_protocol_are_refused(hub: HubProcess) -> None:
    cluster = await Cluster.enrolled(hub, "protocol")
    async with cluster.stream(protocol_min=7, protocol_max=9) as stream:
        code, details = await stream.refused()
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "speaks protocol 7 to 9" in details
    async with cluster.stream() as stream:
        await stream.send(hello=pb.ClusterHello(protocol_min=1, protocol_max=1))
        assert (await stream.refused())[0] is grpc.StatusCode.INVALID_ARGUMENT
    async with cluster.stream() as stream:
        level = pb.Level(trust_domain="protocol", epoch=9, sequence=9)
        await stream.send(acknowledge=pb.Acknowledge(level=level))
        code, details = await stream.refused()
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "highest there is" in details


async def test_an_acknowledgement_without_a_grant_reaches_nobody(hub: HubProcess) -> None:
    west, east = await Cluster.enrolled(hub, "ack-west"), await Cluster.enrolled(hub, "ack-east")
    async with west.stream() as exporting, east.stream() as stranger:
        await exporting.until("snapshot_end")
        await stranger.until("snapshot_end")
        level = pb.Level(trust_domain="ack-west", epoch=1, sequence=1)
        await stranger.send(acknowledge=pb.Acknowledge(level=level))
        assert "consumer" not in await exporting.quiet()


# Who may speak


async def test_only_a_cluster_svid_of_an_enrolled_domain_may_speak(hub: HubProcess) -> None:
    cluster = await Cluster.enrolled(hub, "roles")
    request = pb.SignIntermediateRequest(authority_id=cluster.domain.authority, csr=cluster.domain.csr)
    for path in ("/payments/api", "/trustfed/node/n1", "/trustfed/hub", "/trustfed/cluster/x"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await cluster.sign(request, await cluster.domain.svid(path))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED, path
        assert "may not speak for its trust domain" in (refused.value.details() or "")
    # The root trusts this chain, but the domain's bundle does not hold the authority that signed it.
    impostor = await Newcomer.make("roles")
    impostor.intermediate = await cluster.sign(
        pb.SignIntermediateRequest(authority_id=impostor.authority, csr=impostor.csr)
    )
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await cluster.sign(request, await impostor.svid())
    assert unknown.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await cluster.sign(request) == cluster.domain.intermediate  # the same CSR, the same answer


async def test_a_domain_whose_own_bundle_drops_its_authority_loses_its_stream(hub: HubProcess) -> None:
    cluster = await Cluster.enrolled(hub, "dropped")
    async with cluster.stream() as stream:
        await stream.until("snapshot_end")
        await stream.send(envelope=await cluster.domain.envelope(twins=[]))
        assert (await stream.refused())[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_ends_with_the_svid_that_opened_it(hub: HubProcess) -> None:
    cluster = await Cluster.enrolled(hub, "short")
    async with cluster.stream(await cluster.domain.svid(ttl=4)) as stream:
        await stream.until("snapshot_end")
        code, details = await stream.refused()
        assert code is grpc.StatusCode.UNAUTHENTICATED and "expired" in details


async def test_a_removed_domain_is_out_at_once(hub: HubProcess) -> None:
    west, east = await Cluster.enrolled(hub, "gone-west"), await Cluster.enrolled(hub, "gone-east")
    grant = hub.grant("gone-east", "gone-west")
    await east.decide(grant, "accept", west.domain.key.fingerprint)
    assert hub.https("GET", "/bundles/gone-west").status_code == 200
    async with west.stream() as leaving, east.stream() as staying:
        await leaving.until("snapshot_end")
        await staying.until("snapshot_end")
        removed = hub.admin("DELETE", "/domains/gone-west?reason=decommissioned&break_glass=true")
        assert removed.json()["status"] == "removed", removed.text
        code, details = await leaving.refused()
        assert code is grpc.StatusCode.PERMISSION_DENIED and "decommissioned" in details
        assert (await staying.until("grant", id=grant)).state == "ended"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await west.sign(pb.SignIntermediateRequest(authority_id=west.domain.authority, csr=west.domain.csr))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert hub.https("GET", "/bundles/gone-west").status_code == 404
    nonce = hub.https("GET", "/v1/nonce").json()["nonce"]
    assert hub.https("POST", "/v1/resign", await west.domain.resign(nonce)).status_code == 403


async def test_a_cluster_that_does_not_read_is_thrown_out_all_the_same(hub: HubProcess) -> None:
    west, east = await Cluster.enrolled(hub, "deaf-west"), await Cluster.enrolled(hub, "deaf-east")
    await east.decide(hub.grant("deaf-east", "deaf-west"), "accept", west.domain.key.fingerprint)
    async with east.channel() as channel:
        call = channel.stream_stream(
            "/trustfed.federation.v1.Federation/Sync", pb.FromCluster.SerializeToString, pb.FromHub.FromString
        )(timeout=30)
        await call.write(pb.FromCluster(hello=pb.ClusterHello(protocol_min=1, protocol_max=1)))
        async with west.stream() as stream:
            for _ in range(9):  # 50 KB each: more than fits into the stream of one who does not read
                await stream.send(envelope=await west.domain.envelope(twins=west.domain.twins * 60))
                await stream.until("stored")
            assert hub.admin("DELETE", "/domains/deaf-east?reason=deaf-and-slow&break_glass=true").status_code == 200
            for _ in range(100):
                clusters = {one["trust_domain"] for one in hub.admin("GET", "/clusters").json()["clusters"]}
                connected = hub.admin("GET", "/domains/deaf-east").json()["connected"]
                if not connected:
                    break
                await asyncio.sleep(0.02)
            assert not connected and "deaf-east" not in clusters
        call.cancel()


async def test_grants_are_decided_by_their_sides_only(hub: HubProcess) -> None:
    west, east = await Cluster.enrolled(hub, "sides-west"), await Cluster.enrolled(hub, "sides-east")
    third = await Cluster.enrolled(hub, "sides-third")
    grant = hub.grant("sides-east", "sides-west")
    cases = [
        (west, "accept", west.domain.key.fingerprint, grpc.StatusCode.PERMISSION_DENIED),
        (third, "accept", west.domain.key.fingerprint, grpc.StatusCode.NOT_FOUND),
        (third, "end", "", grpc.StatusCode.NOT_FOUND),
        (east, "accept", third.domain.key.fingerprint, grpc.StatusCode.FAILED_PRECONDITION),
        (east, "perhaps", "", grpc.StatusCode.INVALID_ARGUMENT),
    ]
    for cluster, decision, fingerprint, code in cases:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await cluster.decide(grant, decision, fingerprint)
        assert refused.value.code() is code, (cluster.domain.trust_domain, decision, refused.value.details())
    for _ in range(2):  # the same decision again changes nothing
        assert (await east.decide(grant, "accept", west.domain.key.fingerprint)).state == "accepted"


# Publication


async def test_bundles_are_published_with_tags_for_plain_readers(hub: HubProcess) -> None:
    cluster = await Cluster.enrolled(hub, "plain")
    answer = hub.https("GET", "/bundles/plain")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "max-age=60")
    assert answer.headers["content-type"] == "application/json"
    bundle = Bundle.parse(TrustDomain("plain"), answer.content)
    assert bundle.x509_authorities == tuple(cluster.domain.twins)
    unchanged = hub.https("GET", "/bundles/plain", headers={"If-None-Match": answer.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    everything = BundleMap.parse(hub.https("GET", "/bundle-map").content)
    assert everything.bundle(TrustDomain("plain")).x509_authorities == bundle.x509_authorities
    on_disk = hub.folder / "public" / "bundles" / "plain"
    for _ in range(100):
        if on_disk.exists() and hub.admin("GET", "/domains/plain").json()["published_at"]:
            break
        await asyncio.sleep(0.02)
    assert on_disk.read_bytes() == answer.content
    assert on_disk.stat().st_mode & 0o777 == 0o644
    assert hub.https("GET", "/bundles/nobody").status_code == 404


# Doors


async def test_the_api_wants_a_token_and_the_admin_socket_knows_its_caller(hub: HubProcess) -> None:
    anonymous = hub.https("GET", "/api/v1/domains")
    assert (anonymous.status_code, anonymous.headers["www-authenticate"]) == (401, "Bearer")
    made = hub.admin("POST", "/tokens", {"name": "ci", "role": "viewer"}).json()
    bearer = {"Authorization": f"Bearer {made['token']}"}
    assert hub.https("GET", "/api/v1/whoami", headers=bearer).json() == {
        "actor": f"token:{made['id']}",
        "role": "viewer",
    }
    assert hub.https("GET", "/metrics", headers=bearer).status_code == 200
    order = {"name": "by-viewer", "owner": "me"}
    assert hub.https("POST", "/api/v1/domains", order, headers=bearer).status_code == 403
    hub.admin("DELETE", f"/tokens/{made['id']}")
    assert hub.https("GET", "/api/v1/whoami", headers=bearer).status_code == 401
    assert hub.admin("GET", "/whoami").json()["actor"].startswith("uid:")
    socket = Path(hub.addresses["admin_socket"])
    assert socket.stat().st_mode & 0o777 == 0o600
    assert made["token"] not in (hub.folder / "log").read_text()
    assert hub.https("GET", "/live").json() == {"live": True}
    health = f"http://{hub.addresses['health']}"
    assert httpx.get(f"{health}/ready").json() == {"ready": True, "missing": []}
    assert "trustfed_hub_journal_position" in httpx.get(f"{health}/metrics").text
    assert httpx.get(f"{health}/whoami").status_code == 404
    assert hub.https("GET", "/api/openapi.json").json()["paths"]["/api/v1/grants"]


async def test_bad_orders_get_one_clear_error(hub: HubProcess) -> None:
    cases: list[tuple[str, str, object, int, str]] = [
        ("POST", "/domains", {"name": "Bad_Name", "owner": "me"}, 400, "not lower case"),
        ("POST", "/domains", {"name": "ok", "ownr": "me"}, 400, "owner"),
        ("POST", "/domains", {"name": "ok", "owner": "me", "ttl": "1fortnight"}, 400, "fortnight"),
        ("POST", "/domains", {"name": "ok", "owner": "me", "dns_suffixes": ["*.x"]}, 400, "*.x"),
        ("POST", "/domains", {"name": "trustfed-hub.example", "owner": "me"}, 409, "own trust domain"),
        ("POST", "/grants", {"importer": "a", "exporter": "b", "until": "soon", "reason": "r"}, 400, "soon"),
        ("POST", "/grants/nope/end", {"reason": "r"}, 404, "nope"),
        ("POST", "/tokens", {"name": "x", "role": "king"}, 400, "king"),
        ("POST", "/intermediates/abc/revoke", {"reason": "keyCompromise"}, 404, "abc"),
        ("POST", "/roots/activate", None, 409, "no root is prepared"),
        ("GET", "/domains/none", None, 404, "not registered"),
        ("GET", "/events?after=-1", None, 400, "after"),
        ("GET", "/nowhere", None, 404, "Not Found"),
    ]
    for method, path, body, status, words in cases:
        answer = hub.admin(method, path, body)
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", path
        assert words in answer.json()["detail"], (path, answer.text)
    transport = httpx.HTTPTransport(uds=hub.addresses["admin_socket"], verify=False)
    with httpx.Client(transport=transport, base_url="http://hub") as client:
        assert client.post("/domains", content=b"x" * 70_000).status_code == 413
        assert client.post("/domains", content=b"{", headers={"content-type": "application/json"}).status_code == 400


async def test_a_target_that_cannot_be_written_and_a_web_certificate(tmp_path: Path) -> None:
    certificate, key = _web_certificate()
    (tmp_path / "web.pem").write_bytes(certificate)
    (tmp_path / "web.key").touch(0o600)
    (tmp_path / "web.key").write_bytes(key)
    (tmp_path / "public").write_text("in the way of the folder")
    extra = '[web]\nlisten = "127.0.0.1:0"\ncertificate_file = "web.pem"\nkey_file = "web.key"\n'
    hub = _hub(tmp_path, extra)
    try:
        cluster = await Cluster.enrolled(hub, "unpublished")  # issuance does not wait for publication
        async with cluster.stream() as stream:
            await stream.send(envelope=await cluster.domain.envelope())
            await stream.until("stored")
        (failing,) = [
            one
            for one in hub.admin("GET", "/publication").json()["documents"]
            if one["document"] == "bundles/unpublished"
        ]
        assert "public" in failing["error"] and failing["published_at"] is None and failing["attempts"] > 0
        assert hub.admin("GET", "/status").json()["publication"]["waiting"] == 2
        context = ssl.create_default_context(cadata=certificate.decode())
        with httpx.Client(verify=context, base_url=f"https://{hub.addresses['web']}") as browser:
            assert browser.get("/bundles/unpublished").status_code == 200
    finally:
        assert hub.stop() == 0


def _web_certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate for 127.0.0.1 and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM), private


# Rollover, crashes, disks


async def test_the_root_rolls_over_and_who_was_away_walks_the_chain(own: HubProcess) -> None:
    hub = own
    there, away = await Cluster.enrolled(hub, "there"), await Cluster.enrolled(hub, "away")
    old = there.pinned
    assert old is not None and away.pinned is not None
    async with there.stream(root_version=1) as stream:
        await stream.until("snapshot_end")
        assert hub.admin("POST", "/roots/prepare", {**ALONE, "reason": "yearly rollover"}).json()["version"] == 2
        sent = await stream.until("root_set")
        there.pinned = roots.advance(old, list(sent.documents), datetime.now(UTC))
        assert (there.pinned.version, len(there.pinned.roots)) == (2, 2)
    assert hub.admin("POST", "/roots/prepare", ALONE).status_code == 409
    before = there.domain.intermediate
    assert hub.admin("POST", "/roots/activate", {**ALONE, "reason": "yearly rollover"}).status_code == 200
    for _ in range(250):  # the hub's own SVID moves to the new root by itself
        newest = hub.admin("GET", "/events?after=0&limit=1000").json()["events"][-1]
        if newest["kind"] in ("hub.authority_created", "crl.issued"):
            break
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    request = pb.SignIntermediateRequest(authority_id=there.domain.authority, csr=there.domain.csr)
    after = await there.sign(request)
    assert after != before
    there.domain.intermediate = after
    async with there.stream(root_version=2) as stream:
        await stream.until("snapshot_end")
    # Who was away knows version 1 only: the cross-certificate lets it in, and it walks on from there.
    async with away.stream(root_version=1) as stream:
        documents = list((await stream.until("root_set")).documents)
    away.pinned = roots.advance(away.pinned, documents, datetime.now(UTC))
    assert away.pinned.version == 2
    newcomer = await Cluster.enrolled(hub, "after")
    assert newcomer.pinned is not None and newcomer.pinned.version == 2
    # The old root goes: not while somebody stands on it, unless it is forced.
    order = {**ALONE, "name": "root-1", "reason": "its key is stolen"}
    standing = hub.admin("POST", "/roots/retire", order)
    assert standing.status_code == 409 and "away" in standing.json()["detail"], standing.text
    retired = hub.admin("POST", "/roots/retire", {**order, "force": True}).json()
    assert (retired["version"], [root["status"] for root in retired["roots"]]) == (3, ["retired", "active"])
    await asyncio.sleep(0.2)
    request = pb.SignIntermediateRequest(authority_id=away.domain.authority, csr=away.domain.csr)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await away.sign(request)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE  # not even a handshake
    away.pinned = roots.advance(away.pinned, hub.root_documents()[2:], datetime.now(UTC))
    again = await away.domain.resign(hub.https("GET", "/v1/nonce").json()["nonce"])
    answer = await asyncio.to_thread(hub.https, "POST", "/v1/resign", again)
    assert answer.status_code == 200, answer.text
    away.domain.intermediate = base64.b64decode(answer.json()["intermediate"])
    async with away.stream(root_version=3) as stream:
        await stream.until("snapshot_end")
    async with there.stream(root_version=2) as stream:
        assert len((await stream.until("root_set")).documents) == 1


async def test_kill_at_any_moment_loses_no_acknowledged_decision(own: HubProcess) -> None:
    hub = own
    cluster = await Cluster.enrolled(hub, "survivor")
    acknowledged: list[str] = []
    for round_ in range(3):
        ordered = asyncio.create_task(_invite_until_killed(hub, round_, acknowledged))
        async with cluster.stream() as stream:
            data = await cluster.domain.envelope()
            await stream.send(envelope=data)
            level = pb.Level(trust_domain="survivor", epoch=1, sequence=cluster.domain.sequence)
            await stream.until("stored", level=level)
            while len(acknowledged) < 3 * (round_ + 1):
                await asyncio.sleep(0.01)
            hub.kill()
        await ordered
        hub.start()
        held = {domain["name"]: domain for domain in hub.admin("GET", "/domains").json()["domains"]}
        assert set(acknowledged) <= set(held)
        assert held["survivor"]["level"]["sequence"] == cluster.domain.sequence


async def _invite_until_killed(hub: HubProcess, round_: int, acknowledged: list[str]) -> None:
    for number in range(1000):
        name = f"n{round_}-{number}"
        try:
            answer = await asyncio.to_thread(hub.admin, "POST", "/domains", {"name": name, "owner": "me"}, timeout=2)
        except httpx.HTTPError:
            return
        assert answer.status_code == 201
        acknowledged.append(name)


async def test_a_full_disk_refuses_clearly_and_recovers(own: HubProcess) -> None:
    hub = own
    cluster = await Cluster.enrolled(hub, "full")
    assert hub.process is not None
    # No file of the process may grow any more: what a full disk does to a database.
    before = resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    refused = hub.admin("POST", "/domains", {"name": "too-late", "owner": "me"})
    assert refused.status_code == 503, refused.text
    async with cluster.stream() as stream:
        await stream.send(envelope=await cluster.domain.envelope())
        assert (await stream.refused())[0] is grpc.StatusCode.UNAVAILABLE
    assert hub.admin("GET", "/domains/full").json()["level"]["sequence"] == cluster.domain.sequence - 1
    resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, before)
    assert hub.admin("POST", "/domains", {"name": "in-time", "owner": "me"}).status_code == 201
    hub.kill()
    hub.start()
    names = [domain["name"] for domain in hub.admin("GET", "/domains").json()["domains"]]
    assert names == ["full", "in-time"]


async def test_a_second_process_and_a_second_init_are_refused(hub: HubProcess) -> None:
    second = hub.run("serve")
    assert second.returncode == 5 and "in use by process" in second.stderr
    again = hub.run("init")
    assert again.returncode == 5 and "in use by process" in again.stderr


def test_configuration_faults_are_named(tmp_path: Path) -> None:
    process = HubProcess(tmp_path, '[policy]\nintermediat_ttl = "1d"\n')
    refused = process.run("init")
    assert refused.returncode == 2
    assert "intermediat_ttl" in refused.stderr and "intermediate_ttl" in refused.stderr
    assert HubProcess(tmp_path).run("serve").returncode == 5  # not set up yet


def test_tokens_name_the_hub_and_its_roots(hub: HubProcess) -> None:
    token = EnrolmentToken.decode(hub.invite("named"), "cluster")
    assert str(token.server_id) == "spiffe://trustfed-hub.example/trustfed/hub"
    assert (token.newcomer, token.address) == ("named", f"https://{hub.addresses['https']}")
    assert roots.pin(hub.root_documents()[0], token.root_version, token.root_hash).version == 1
