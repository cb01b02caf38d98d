"""The rules of rotation success, so exactly that two programs that follow them give the same numbers.

WORDS. Facts are taken in order of position. Times are Unix ms. `clock` is the greatest Fact.at taken so far, the fact
at hand included; `as_of` is when one looks: the given time, or `clock` if that is later. t(fact) = min(body.at,
Fact.at); Fact.at where the body has no `at` or says `late`. SLOT = (instance, slot) of a body. Only slots "x509"
(class leaf) and "node" (class agent) have obligations. A serial X is later than S if the position of its x509.issued
is. D is the definition, `na(X)` not_after in ms, `nb(X)` likewise.

1  ACCEPTED. agent.delivered, loaded, confirmed, released and expired count only if the body's serial was issued
   (x509.issued taken before) to the same instance, slot and node. Otherwise the fact changes nothing below. t is at
   least the Fact.at of that issue. An agent.seen never counts. (Of one SLOT all but the newest 64 serials may be
   forgotten.)
2  EVIDENCE. delivered, loaded and confirmed are evidence of the level of that name for serial X at t. So is
   x509.issued of level issued, at its Fact.at (it needs no rule 1). For each obligation of SLOT that is neither
   settled (9) nor superseded, and whose predecessor X is later than:
   a  if it is forced (7) and X was issued before its command: nothing.
   b  if it was reached (c) and its successor is not X: nothing.
   c  else by_level[level] = min(old, t). If level >= its required level: reached_ms = min(old, t), successor = X.
3  OPENS. After 2 and 4, evidence of delivered or better for X opens an obligation with predecessor X, if X is later
   than each predecessor that this SLOT ever had, no obligation of SLOT holds (5), and clock <= na(X) + D.close_ms. L
   = na - nb; due = nb + L*due_permille//1000; on_time = nb + L*on_time_permille//1000; hard = na. opened = t. node
   and entry are those of X. Required level: confirmed if slot is "node", or if evidence of confirmed with a `peer`
   that does not start with "spiffe://" was accepted for SLOT, before this fact, of no serial older than the newest
   predecessor of then, at a time > t - probe_memory_ms; else loaded if the fact is agent.loaded or agent.confirmed, or
   agent.delivered with door sds; else delivered. The
   x509.issued of later serials of SLOT, taken before, count at once as 2 says. If a command (7) taken since X was
   issued names X's authority or entry, it opens forced (by the newest such command), with on_time and due as there.
   If its entry or node ended before (6), it opens with that time.
4  RELEASED. agent.released of X at t: if no evidence of delivered or better was accepted for a later serial of SLOT,
   then each obligation of SLOT that is not settled, with t <= on_time, gets released = t. Evidence of delivered or
   better for X at t <= on_time (before 3) sets released = 0 for each obligation of SLOT that is not settled and whose
   predecessor is not later than X. agent.expired of X sets `expired` on the obligation whose predecessor is X.
5  HOLDS. The newest unsettled obligation of a SLOT, and no other, holds it while clock <= hard, it is not reached, not
   excused (excused_ms = 0), not superseded, and not (released and clock > on_time).
6  GONE. entry.ended, node.ended at t: excused_ms = t for each obligation with that entry or node that is not settled
   and has excused_ms = 0. It is remembered for those that open later, until an x509.issued names that entry or node
   again.
7  FORCED. rotation.forced {authorities, entries, deadline, journal} taken: each obligation that holds (5), whose
   predecessor's authority or whose entry is named and whose force is not this journal position, becomes superseded; a
   new one opens at Fact.at with the same predecessor, class, level, node, entry, force = str(journal), on_time =
   min(on_time, deadline), due = min(due, on_time), hard, released (if not after the new on_time) and silence
   unchanged. Only what is issued after the command fulfils it (2a).
8  NODE. Silence over hard, said before or after the obligation opened: node.heard {node, from > 0, to} with from <=
   hard <= to; cluster.gap {from, to} likewise for all nodes; or node.silent {since} with since <= hard and no
   node.heard of that node after it; or an agent.lost of the node, taken while the obligation was neither settled nor
   reached.
9  SETTLED, before a fact is applied and after it has been: at clock > on_time if ON_TIME or SUPERSEDED; otherwise at
   clock > hard + close_ms. A settled obligation changes no more: evidence for it that would have made it better is a
   correction, listed and not counted.
10 OUTCOME, the first that holds: superseded: SUPERSEDED. 0 < reached_ms <= on_time: ON_TIME. 0 < excused_ms <=
   on_time: EXCUSED. released and as_of > on_time: UNUSED. 0 < reached_ms <= hard: LATE. as_of <= hard +
   unknown_grace_ms: OPEN. `expired`: EXPIRED. silence over hard (8): UNKNOWN. Else EXPIRED.
11 TRIES. x509.issued for SLOT while an obligation of it holds: tries + 1. svid.refused {instance, slot, count}: tries
   and refused + count.
12 COUNTED in the bucket of on_time (on_time - on_time % 300000): due 1; its outcome 1; tries, refused; and unless
   EXCUSED, SUPERSEDED or UNUSED for each of the levels issued, delivered, loaded, confirmed: 1 if by_level of it or
   of a better level is <= on_time.
13 RECREATED, beside EXCUSED and changing no outcome: an obligation that is EXCUSED and whose SPIFFE ID an x509.issued
   named again for the same node and slot, taken while it was excused and not settled, with Fact.at <= hard. What it was
   owed for was back within the life; each one is named.

FEW, from authority.step in order; class by kind: x509 intermediate, jwt jwt_key, root root (external: none). t as
above.
20 activated(A), retires P, the first such step for P: P's obligation is reached at t, successor A. If P has none: one
   that opened at t with on_time = hard = t. ON_TIME if not forced and t <= on_time; else LATE if t <= hard; else
   EXPIRED.
21 the same step, kind x509 or jwt, with P: one of class bundle, predecessor P, successor A, opened = due = on_time =
   hard = t: ON_TIME if not forced and missing is empty, else LATE.
22 the same step: A's own opens (once): opened = t, due as in 3, hard = na, on_time = safe_ms (the last safe moment,
   ms) if the step says it, else hard. Required: confirmed.
23 tainted(P), not reached: SUPERSEDED. Not reached and as_of > hard: EXPIRED. They settle at clock > hard + close_ms;
   a reach counts as all four levels in 12.

PROBES
30 probe.up, probe.down at t; cluster.gap makes each probe unknown from its `from` on. Before its first fact a probe
   is unknown. Unknown counts as down.

FIGURES of a window [from, to), both multiples of 5 minutes, `to` no later than as_of: sums over buckets from <=
bucket < to.
40 base = due - excused - superseded - unused. headline = on_time / base, None if base is 0. with_unused_failed =
   on_time / (base + unused).
41 coverage = (base - unknown) / (base + unused), 1 if that is 0. Withheld if coverage < coverage_floor. No headline
   for the FEW.
42 interval: Clopper-Pearson of on_time in base. rates: each level / base. attempts: (tries - refused) / tries.
   retries: max(0, tries - issued) / base. Rates are rounded to 6 places.
43 Beside them and not part of a pack's proof, in the bucket of the event: first (x509.issued with no predecessor, for
   slots with obligations), abandoned and prefetched (issued, ended and never delivered; prefetched if an agent.held
   named it), unknown_serials (a serial in agent.held, agent.seen or evidence that was never issued), corrected (9).
"""

from __future__ import annotations

from trustfed.evidence.model import Class

SLOT_CLASS = {"x509": Class.LEAF, "node": Class.AGENT}
AUTHORITY_CLASS = {"x509": Class.INTERMEDIATE, "jwt": Class.JWT_KEY, "root": Class.ROOT}
