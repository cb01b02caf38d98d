"""The gRPC door at which agents report (trustfed/proto/evidence.proto, NodeEvidence): the callers are judged as at Node's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from trustfed.cluster import nodes
from trustfed.cluster.callers import Callers
from trustfed.cluster.evidence.intake import Intake
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid
from trustfed.federation.names import node_name
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.grpc_server import answering
from trustfed.spiffe.x509svid import X509Svid

log = logs.get("cluster.evidence")

SERVICE = "trustfed.evidence.v1.NodeEvidence"


class NodeDoor:
    """One method. `called` is told which node showed which SVID."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        callers: Callers,
        intake: Intake,
        called: Callable[[str, X509Svid], None],
    ) -> None:
        self._state, self._callers, self._intake, self._called = state, callers, intake, called

    def handlers(self) -> Any:
        """For `Server.add_generic_rpc_handlers`."""
        method = grpc.unary_unary_rpc_method_handler(
            self.report,
            request_deserializer=pb.NodeReport.FromString,
            response_serializer=pb.NodeReportAnswer.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Report": method})

    @answering
    async def report(self, request: pb.NodeReport, context: Any) -> pb.NodeReportAnswer:
        """Take a run of facts from the node behind the connection. Raises Denied for anybody else."""
        svid = self._callers.svid(context)
        try:
            name = node_name(svid.id)
        except Invalid:
            log.warning("call refused", peer=context.peer(), error=f"{svid.id} is not a node")
            raise Denied(f"{svid.id} is not a node", hint="only node agents may call this service") from None
        node = nodes.standing(self._state(), name, svid.not_before)
        self._called(name, svid)
        answer = await self._intake.report(node, request)
        nodes.standing(self._state(), name, svid.not_before)  # banned, or attested anew, meanwhile
        return answer
