"""The facts of a ledger: their kinds, and what each one's body holds.

`Fact.at` is when the fact was recorded, by the clock of the process that owns the ledger. A body's `at` is the time of the
evidence (Unix ms), never later than that. Times named not_before and not_after are Unix seconds, as certificates have them.

| kind | key | body |
|---|---|---|
| x509.issued | serial | `ca.issuance.Draft.facts`: who, until when, which key, in whose place |
| x509.signed | authority | authority, certificates: {serial: SHA-256 of the DER}, at most 500 |
| jwt.issued | jti | `ca.jwt.JwtDraft.facts` |
| ca.issued | serial | what the root signed |
| svid.refused | instance | node, entry, instance, slot, code, count, at: tries that were refused, gathered for a second |
| agent.delivered | serial | SAID, door: workload_api or sds: a workload has it for the first time since it was last released |
| agent.released | serial | SAID: no workload has a stream for it any more |
| agent.loaded | serial | SAID, peer: the Envoy that says it uses it |
| agent.confirmed | serial | SAID, peer, spiffe_id: a handshake showed this very serial |
| agent.seen | serial | SAID, peer, spiffe_id: a handshake showed a serial that the node does not hold |
| agent.expired | serial | SAID: it ended, a workload wanted it, and there was no successor |
| agent.held | node | SAID, serials, part, parts: all that the node holds |
| agent.lost | node | SAID, lost: [{kind, count, first, last}]: what its spool had to give up |
| agent.offset | node | SAID, offset_ms: its wall clock minus this cluster's |
| agent.flagged | node | node, why, kind, epoch, sequence, serial: what was not believed, and is counted as nothing |
| node.silent | node | node, since: nothing was heard since |
| node.heard | node | node, from, to: it is heard again; `from` is 0 for the first time |
| node.ended | node | node, why, journal: banned, or removed |
| entry.ended | entry | entry, why, journal |
| cluster.gap | trust domain | from, to: this process was not running, and heard nobody |
| rotation.forced | authority | authorities, deadline, reason, journal |
| authority.step | authority | STEP |
| bundle.published | trust domain | epoch, sequence, carries, journal |
| bundle.acknowledged | trust domain | node or importer, epoch, sequence |
| probe.down, probe.up | probe | probe: sign, feed or bundle, at; up also from: since when it was down |
| evidence.policy | definition hash | definition: the whole of it (trustfed.evidence.definition) |
| evidence.rollup | first position | what left by retention (trustfed.evidence.retention) |

STEP is authority, kind (x509, jwt, external or root), step (prepared, certified, published, activated, retired, reissued,
tainted or removed), not_before, not_after, forced, missing, retires, algorithm, custodian, journal (the position in the journal).

SAID is what each fact of an agent carries: node, epoch (hex) and sequence (exactly once by these three), entry, instance, slot,
serial, at, and `late: true` where the time that it claims could not be believed and the receipt counts instead.
"""

from __future__ import annotations

ISSUED, SIGNED, JWT_ISSUED, CA_ISSUED = "x509.issued", "x509.signed", "jwt.issued", "ca.issued"
REFUSED = "svid.refused"
DELIVERED, RELEASED, LOADED, CONFIRMED = "agent.delivered", "agent.released", "agent.loaded", "agent.confirmed"
SEEN, EXPIRED, HELD, LOST = "agent.seen", "agent.expired", "agent.held", "agent.lost"
OFFSET, FLAGGED = "agent.offset", "agent.flagged"
NODE_SILENT, NODE_HEARD, NODE_ENDED, ENTRY_ENDED = "node.silent", "node.heard", "node.ended", "entry.ended"
CLUSTER_GAP = "cluster.gap"
FORCED, AUTHORITY_STEP = "rotation.forced", "authority.step"
BUNDLE_PUBLISHED, BUNDLE_ACKNOWLEDGED = "bundle.published", "bundle.acknowledged"
PROBE_DOWN, PROBE_UP = "probe.down", "probe.up"
POLICY, ROLLUP = "evidence.policy", "evidence.rollup"

SAID_BY_AGENTS = frozenset({DELIVERED, RELEASED, LOADED, CONFIRMED, SEEN, EXPIRED, HELD, LOST, OFFSET})
