"""An SDS client over one connection, that says what the test wants it to say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from agent.sds.door import SERVICE
from agent.sds.names import SECRET_TYPE
from tests.unit.agent.world import Workload
from trustfed.proto import envoy_pb2 as pb


class Proxy:
    """One Envoy, as far as SDS goes. It sends no workload.spiffe.io header, as Envoy does not."""

    def __init__(self, socket: Path, name: str = "proxy~1") -> None:
        self.channel, self.name = Channel(path=str(socket)), name

    @asynccontextmanager
    async def stream(self, *names: str, **more: Any) -> AsyncIterator[Any]:
        method: Any = StreamStreamMethod(
            self.channel, SERVICE + "StreamSecrets", pb.DiscoveryRequest, pb.DiscoveryResponse
        )
        async with _opened(method) as stream:
            await stream.send_message(self.request(*names, node=pb.Node(id=self.name), **more))
            yield stream

    @asynccontextmanager
    async def delta(self, *names: str, **more: Any) -> AsyncIterator[Any]:
        method: Any = StreamStreamMethod(
            self.channel, SERVICE + "DeltaSecrets", pb.DeltaDiscoveryRequest, pb.DeltaDiscoveryResponse
        )
        async with _opened(method) as stream:
            await stream.send_message(
                pb.DeltaDiscoveryRequest(
                    resource_names_subscribe=names, node=pb.Node(id=self.name), type_url=SECRET_TYPE, **more
                )
            )
            yield stream

    async def fetch(self, *names: str, **more: Any) -> pb.DiscoveryResponse:
        method: Any = UnaryUnaryMethod(
            self.channel, SERVICE + "FetchSecrets", pb.DiscoveryRequest, pb.DiscoveryResponse
        )
        answered: pb.DiscoveryResponse = await method(self.request(*names, **more), timeout=20)
        return answered

    @staticmethod
    def request(*names: str, **more: Any) -> pb.DiscoveryRequest:
        return pb.DiscoveryRequest(**{"resource_names": names, "type_url": SECRET_TYPE, **more})

    async def accept(self, stream: Any, answer: pb.DiscoveryResponse, *names: str) -> None:
        await stream.send_message(self.request(*names, version_info=answer.version_info, response_nonce=answer.nonce))

    async def next(self, stream: Any) -> Any:
        """The next response; the stream's status is raised where there is none."""
        try:
            return await Workload.first(stream)
        except (StreamTerminatedError, ProtocolError):  # the server ended it before the client did
            stream._maybe_raise()
            raise

    def close(self) -> None:
        self.channel.close()


@asynccontextmanager
async def _opened(method: Any) -> AsyncIterator[Any]:
    """A stream whose end is no error: how it ended is what `next` raised."""
    call = method.open()
    stream = await call.__aenter__()
    try:
        yield stream
    finally:
        with suppress(Exception):
            await stream.cancel()
        with suppress(GRPCError, ProtocolError, StreamTerminatedError):
            await call.__aexit__(None, None, None)


def secrets(answer: pb.DiscoveryResponse) -> dict[str, pb.Secret]:
    """What a response holds, by name."""
    found = [pb.Secret.FromString(one.value) for one in answer.resources]
    assert all(one.type_url == SECRET_TYPE for one in answer.resources)
    return {one.name: one for one in found}


def domains(secret: pb.Secret) -> dict[str, bytes]:
    """The anchors (PEM) of each trust domain in a validation context."""
    validator = secret.validation_context.custom_validator_config
    assert validator.name == "envoy.tls.cert_validator.spiffe"
    # Neither a pool of anchors nor matchers of ours beside it.
    assert not secret.validation_context.HasField("trusted_ca")
    assert not secret.validation_context.match_typed_subject_alt_names
    config = pb.SPIFFECertValidatorConfig.FromString(validator.typed_config.value)
    return {one.name: one.trust_bundle.inline_bytes for one in config.trust_domains}
