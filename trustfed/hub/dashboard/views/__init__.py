"""The dashboard's views: each answers one question at a glance, and every number leads to the facts under it."""

from __future__ import annotations

from trustfed.hub.dashboard.frame import View
from trustfed.hub.dashboard.views import auditor, authorities, controls, findings, fleet, identity, rotation

_FLEET, _ROTATION, _TRUST, _FINDINGS, _PROOF = "Fleet", "Rotation", "Trust", "Findings", "Proof"

VIEWS: tuple[View, ...] = (
    View("/", "Fleet", "Which clusters need somebody, and for what?", fleet.heatmap, group=_FLEET),
    View("/alarms", "Alarms", "What has somebody to look at now?", fleet.alarms, group=_FLEET),
    View("/domain", "Cluster", "How does it stand?", fleet.cluster),
    View(
        "/funnel", "Funnel", "How far do rotations come, and why do the others stop?", rotation.funnel, group=_ROTATION
    ),
    View(
        "/expiry",
        "Expiry runway",
        "What ends next, and what expires if nothing changes?",
        rotation.expiry,
        group=_ROTATION,
    ),
    View("/failed", "Failed rotations", "Which rotations failed, and why?", rotation.failed, group=_ROTATION),
    View("/identity", "Identity", "What happened to one identity?", identity.identity, group=_ROTATION),
    View(
        "/rollovers",
        "CA rollovers",
        "How far is each rollover, and who is waited for?",
        authorities.rollovers,
        group=_TRUST,
    ),
    View("/drift", "Bundle drift", "Who has not got the bundle that was published?", authorities.drift, group=_TRUST),
    View("/trust", "Trust map", "Who trusts whom, and until when?", authorities.trust, group=_TRUST),
    View(
        "/unknown", "Unknown certificates", "Which certificates does no ledger know?", findings.unknown, group=_FINDINGS
    ),
    View(
        "/algorithms",
        "Algorithms",
        "Is anything weak, and how far is the move to quantum-safe keys?",
        findings.algorithms,
        group=_FINDINGS,
    ),
    View("/lint", "Lifetimes", "Which lifetimes do not nest?", findings.lint, group=_FINDINGS),
    View("/controls", "Controls", "Which controls hold now, and what proves it?", controls.matrix, group=_PROOF),
    View("/controls/{name}", "Control", "Does it hold?", controls.control),
    View(
        "/auditor",
        "Auditor",
        "What can be relied on, and how is it verified?",
        auditor.auditor,
        role="auditor",
        group=_PROOF,
    ),
)
