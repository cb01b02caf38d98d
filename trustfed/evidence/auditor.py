"""The second verifier of an evidence pack, for the auditor who trusts none of our code: python3 verify.py PACK [--trust FILE]

It needs Python 3.11 and `cryptography`, reads only PACK and FILE, and shares no code with trustfed. FILE holds, a line each, what
did not come with the pack: verifier keys (C2SP signed-note), publication key fingerprints (sha256:HEX), or, whole, a checkpoint
kept from an earlier day. Exit 0: verified. 1: something does not hold, and is named. 3: consistent, but nothing says whose."""

# fmt: off
# ruff: noqa: E401, E701, I001
import base64, contextlib, functools, gzip, hashlib, heapq, json, pathlib, sys, tarfile
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

MOST, LINE, NEVER, VERSION_1 = 1 << 24, 17 << 16, 1 << 60, "1930f6b3105ca64d8ca71b1659d04b1b4470be986c97408da7dfd000e5e8c76f"
LEVELS, DECIDED = ("issued", "delivered", "loaded", "confirmed"), {"entry", "node", "bundle", "rotation", "authority"}
CLASSES, FEW = {"x509": "leaf", "node": "agent"}, {"x509": "intermediate", "jwt": "jwt_key", "root": "root"}
MIRRORS = {"entry.ended": ["entry.deleted"], "node.ended": ["node.banned"], "bundle.published": ["bundle.published"],
    "rotation.forced": ["authority.reissued", "rotation.ordered"], "authority.step": ["authority.activated", "authority.tainted"]}
KEPT, DASH, FAULTS = ("class", "on_time", "hard", "level", "node", "entry", "lost"), b"\n\n\xe2\x80\x94 ", list[str]()
raw = functools.partial(base64.b64decode, validate=True)
def check(code, good, says):  # Say what holds and what does not.
    print(f"{'holds' if good else 'FAILS'}  {code}: {says if says.isprintable() else ascii(says)}")
    FAULTS.extend([] if good else [code])
class Pack:  # 1. The archive: what the manifest names, and nothing else.
    def __init__(self, path):
        self.tar = tarfile.open(path, "r:")  # noqa: SIM115
        self.sizes = {info.name: info.size for info in self.tar}
        odd = [one.name for one in self.tar if not one.isreg() or one.issparse() or self.tar.getmember(one.name) is not one]
        self.manifest = json.loads(self.small("manifest.json"))
        check("format", self.manifest["format"] == "trustfed-evidence-pack/1", self.manifest["format"])
        named = {member["name"]: member for member in self.manifest["members"]}
        wrong = odd + sorted(set(self.sizes) ^ {*named, "manifest.json"})
        for name in sorted(set(named) & set(self.sizes)):
            digest = hashlib.file_digest(self.tar.extractfile(name), "sha256").hexdigest()
            wrong += [name] if (self.sizes[name], digest) != (named[name]["size"], named[name]["sha256"]) else []
        check("member", not wrong, f"{len(named)} members; not as the manifest says: {', '.join(wrong[:9]) or 'none'}")
    def small(self, name):
        if self.sizes.get(name, MOST) >= MOST: raise ValueError(f"{name} is missing or too long")
        return self.tar.extractfile(name).read()
    def entries(self, log, tree):
        position, number, last = self.manifest[log]["first"], 0, self.manifest[log]["last"]
        while position <= last:
            number += 1
            with gzip.open(self.tar.extractfile(f"{log}/{number:06d}.ndjson.gz")) as stream:
                while line := stream.readline(LINE):  # bounded, whatever the packed bytes grow to
                    if line[-1:] != b"\n" or stream.tell() > 1 << 28 or position > last + 1:
                        raise ValueError(f"{log} {number} has a longer line, or more of them, than a segment can have")
                    tree.add(line[:-1])
                    yield position, json.loads(line, parse_constant=int)
                    position += 1
class Tree:  # 2. A Merkle tree (RFC 6962 §2.1): the roots of its complete subtrees, largest first.
    def __init__(self, size=0, roots=()):
        self.size, self.roots = size, list(roots)
    def add(self, line):
        root, size = hashlib.sha256(b"\0" + line).digest(), self.size
        while size & 1: root, size = hashlib.sha256(b"\1" + self.roots.pop() + root).digest(), size >> 1
        self.roots.append(root)
        self.size += 1
    def root(self):
        roots = self.roots[::-1] or [hashlib.sha256(b"").digest()]
        return functools.reduce(lambda right, left: hashlib.sha256(b"\1" + left + right).digest(), roots)
def vkey(text):  # 3. (name, key id, kind, key) of a C2SP verifier key.
    name, hashed, encoded = text.strip().split("+", 2)
    if hashlib.sha256(name.encode() + b"\n" + raw(encoded)).digest()[:4].hex() != hashed:
        raise ValueError(f"the verifier key of {name} is damaged")
    return name, bytes.fromhex(hashed), raw(encoded)[0], ed25519.Ed25519PublicKey.from_public_bytes(raw(encoded)[1:])
def checkpoint(note):  # (origin, size, root, signed text, [(name, signature)]) of a C2SP checkpoint.
    text, _, below = note.decode().partition("\n\n")
    origin, size, root = text.split("\n")
    signatures = [(name, raw(value)) for _, name, value in (line.split(" ") for line in below.splitlines())]
    return origin, int(size), raw(root), (text + "\n").encode(), signatures
def signed(text, signatures, key):  # Whether this key signed (kind 1) or cosigned (kind 4).
    for name, value in signatures:
        if (name, value[:4]) == key[:2]:
            at = b"cosignature/v1\ntime %d\n" % int.from_bytes(value[4:12]) if key[2] == 4 else b""
            with contextlib.suppress(InvalidSignature):
                return key[3].verify(value[12:] if key[2] == 4 else value[4:], at + text) is None
    return False
def endorser(keys, domain):  # The fingerprint of the publication key, whose DSSE signature endorses the log's key.
    spki, envelope = raw(keys["publication_key"]), json.loads(raw(keys["endorsement"]))
    kind, payload = envelope["payloadType"].encode(), raw(envelope["payload"])
    pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    serialization.load_der_public_key(spki).verify(raw(envelope["signatures"][0]["sig"]), pae, ec.ECDSA(hashes.SHA256()))
    check("key", json.loads(payload) == {"trust_domain": domain, "vkey": keys["log"]}, "the domain endorses the log's key")
    return "sha256:" + hashlib.sha256(spki).hexdigest()
def agrees(fact, decided, lives):  # Whether a fact says what the event that it names decided, and when.
    kind, said = fact["kind"], fact["body"]
    by, at, b = decided.get(said.get("journal"), ("", 0, {}))
    step, named, who = said.get("step"), [said.get("authorities"), said.get("entries") or []], said.get("authority")
    flags = [(bool(one.get("forced")), bool(one.get("missing")), one.get("retires") or "") for one in (said, b)]
    life, so = lives.get(who), (said.get("kind"), said.get("not_before"), said.get("not_after"))
    so = so[0] not in ("x509", "jwt") or (life == so and life[1] <= said.get("safe_ms", life[2] * 1000) // 1000 <= life[2])
    same = (step != "activated" or (so and flags[0] == flags[1])) and (by, b.get("id")) == (f"authority.{step}", who)
    so = by in MIRRORS[kind] and named == ([b.get("authorities"), b.get("entries")] if "deadline" in b else [[b.get("id")], []])
    due = so and datetime.fromisoformat(b.get("deadline") or b["at"]).timestamp() + b["spread_seconds"] * ("deadline" not in b)
    return said.get("at") == at <= said.get("deadline", at) and {"rotation.forced": so and abs(said["deadline"] - due * 1000) < 2,
        "entry.ended": (by, said.get("entry")) == ("entry.deleted", b.get("id")),
        "node.ended": (by, said.get("node")) == ("node.banned", b.get("name")),
        "bundle.published": (by, said.get("sequence")) == (kind, b.get("sequence")),
        "authority.step": same or (step == "published" and who in b.get("carries", ()))}[kind]
class Fold:  # 4. Obligations, by version 1 of the definition; the numbers are those of trustfed's rules.
    def __init__(self, definition):
        self.d, self.clock, self.owed, self.closed = definition, 0, {}, []
        self.issued, self.seen, self.gone, self.commands, self.silence, self.steps = {}, {}, {}, [], [], {}
        self.ends, self.of, self.retired, self.left = [], {}, {}, {}
    def outcome(self, o, as_of):  # 8, 10
        silent = o["lost"] or any(a <= o["hard"] <= b for node, a, b in self.silence if node in ("", o["node"]))
        ways = (("superseded", o["superseded"]), ("late" if o["bad"] else "on_time", o["reached"] <= o["on_time"]),
                ("excused", 0 < o["excused"] <= o["on_time"]), ("unused", o["released"] and as_of > o["on_time"]),
                ("late", o["reached"] <= o["hard"]), ("open", as_of <= o["hard"] + o["grace"]),
                ("unknown", silent and not o["expired"] and o["grace"]), ("expired", True))
        return o.get("final") or next(how for how, so in ways if so)
    def holds(self, o):  # 5
        gone = o["excused"] or o["superseded"] or (o["released"] and self.clock > o["on_time"])
        return self.clock <= o["hard"] and o["reached"] == NEVER and not gone
    def settle(self, o):  # 9
        if "final" not in o:
            o["final"] = self.outcome(o, self.clock)
            self.owed[o["slot"]].remove(o)
            self.closed.append(o)
            self.steps = {a: one for a, one in self.steps.items() if one is not o} if not o["grace"] else self.steps
    def live(self, slot=None):
        for o in [o for one in ([slot] if slot else self.owed) for o in self.owed.get(one, ())]:
            if o["grace"] and self.clock > o["on_time"] and self.outcome(o, self.clock) in ("on_time", "superseded"):
                self.settle(o)
            elif "final" not in o:
                yield o
    def open(self, slot, x, command=None, **more):
        o = {"slot": slot, "x": x, "excused": 0, "released": 0, "reached": NEVER, "successor": "", "by": {}, "superseded": False}
        o.update(force="", after=0, expired=False, lost=False, bad=False, tries=0, refused=0, node="", entry="", again=False)
        o.update({"grace": self.d["unknown_grace_ms"], **more})
        o.update({"after": command[3], "force": command[2], "on_time": min(o["on_time"], command[1])} if command else {})  # 7
        self.owed.setdefault(slot, []).append(o)
        heapq.heappush(self.ends, (o["hard"] + self.d["close_ms"], id(o), o))
        return o
    def evidence(self, slot, serial, level, t, x):  # 2
        for o in self.live(slot):
            later = x["position"] > max(self.issued[o["x"]]["position"], o["after"]) and not o["superseded"]
            if later and (o["successor"] == serial or o["reached"] == NEVER):
                o["by"][level] = min(o["by"].get(level, NEVER), t)
                if LEVELS.index(level) >= LEVELS.index(o["level"]):
                    o["reached"], o["successor"] = min(o["reached"], t), serial
    def take(self, position, fact):
        kind, body, at = fact["kind"], fact["body"], fact["at"]
        self.clock, t = max(self.clock, at), at if body.get("late") else min(body.get("at", at), at)
        slot = (body.get("instance"), body.get("slot"))
        while self.ends and self.ends[0][0] < self.clock: self.settle(heapq.heappop(self.ends)[2])
        if kind == "x509.issued" and slot[1] in CLASSES:
            self.of.setdefault(slot, []).append(body["serial"])
            x = {**body, "position": position, "na": body["not_after"] * 1000, "nb": body["not_before"] * 1000, "at": at}
            self.issued[body["serial"]] = x
            self.gone.pop(("entry", body["entry"]), None), self.gone.pop(("node", body["node"]), None)
            for o in self.left.get((body["spiffe_id"], body["node"], slot[1]), ()):  # 13
                o["again"] = o["again"] or (at <= o["hard"] and "final" not in o)
            for o in list(self.live(slot))[-1:]: o["tries"] += self.holds(o)  # 11
            self.evidence(slot, body["serial"], "issued", at, x)
        elif kind == "svid.refused":
            for o in (o for o in list(self.live(slot))[-1:] if self.holds(o)):
                o.update(tries=o["tries"] + body["count"], refused=o["refused"] + body["count"])
        elif kind in ("agent.delivered", "agent.loaded", "agent.confirmed", "agent.released", "agent.expired"):
            x = self.issued.get(body["serial"])
            if x and (*slot, body["node"]) == (x["instance"], x["slot"], x["node"]):  # 1
                self.said(kind[6:], slot, body, max(t, x["at"]), x)
        elif kind in ("entry.ended", "node.ended"):  # 6
            what = kind.split(".")[0]
            self.gone[what, body[what]] = t
            for o in self.live(): self.excuse(o, t if o[what] == body[what] else 0)
        elif kind == "rotation.forced":  # 7
            named = {*body["authorities"], *(("entry", one) for one in body.get("entries") or ())}
            self.commands.append(command := (named, body["deadline"], str(body["journal"]), position))
            for o in [o for slot in list(self.owed) for o in list(self.live(slot))[-1:]]:
                x = self.issued.get(o["x"])
                if x and self.holds(o) and o["force"] != command[2] and {x["authority"], ("entry", x["entry"])} & named:
                    o["superseded"] = True
                    again = self.open(o["slot"], o["x"], command, **{n: o[n] for n in KEPT})
                    again["released"] = o["released"] * (o["released"] <= again["on_time"])
        elif kind == "node.silent": self.silence.append([body["node"], body["since"], NEVER])
        elif kind in ("node.heard", "cluster.gap"):
            self.silence = [one for one in self.silence if one[0] != body.get("node", "") or one[2] != NEVER]
            self.silence += [[body.get("node", ""), body["from"], body["to"]]] if body["from"] > 0 else []
        elif kind == "agent.lost":
            for o in self.live(): o["lost"] = o["lost"] or (o["node"] == body["node"] and o["reached"] == NEVER)
        elif kind == "authority.step" and body["kind"] in FEW and body["step"] == "activated":
            self.activated(body, t, body["authority"], body.get("retires"), FEW[body["kind"]])
        elif kind == "authority.step" and body["kind"] in FEW and body["step"] == "tainted" and body["authority"] in self.steps:
            self.steps[body["authority"]]["superseded"] = self.steps[body["authority"]]["reached"] == NEVER
    def excuse(self, o, t):  # 6
        if t and not o["excused"]: self.left.setdefault((self.issued[o["x"]]["spiffe_id"], o["node"], o["slot"][1]), []).append(o)
        o["excused"] = o["excused"] or t or 0
    def said(self, kind, slot, body, t, x):
        serial, past = body["serial"], self.seen.setdefault(slot, {"last": 0, "best": 0, "probed": -NEVER})
        if kind == "expired":  # 4
            for o in self.live(slot): o["expired"] = o["expired"] or o["x"] == serial
        elif kind == "released":
            for o in self.live(slot): o["released"] = t if past["best"] <= x["position"] and t <= o["on_time"] else o["released"]
        else:
            for o in self.live(slot): o["released"] *= t > o["on_time"] or x["position"] < self.issued[o["x"]]["position"]
            self.evidence(slot, serial, kind, t, x)
            probed, past["best"] = past["probed"] > t - self.d["probe_memory_ms"], max(past["best"], x["position"])
            if kind == "confirmed" and not body.get("peer", "").startswith("spiffe://") and x["position"] >= past["last"]:
                past["probed"] = max(past["probed"], t)
            taken = any(self.holds(o) for o in list(self.live(slot))[-1:]) or self.clock > x["na"] + self.d["close_ms"]
            if x["position"] > past["last"] and not taken:  # 3
                past["last"], on_time = x["position"], x["nb"] + (x["na"] - x["nb"]) * self.d["on_time_permille"] // 1000
                level = "delivered" if kind == "delivered" and body.get("door") != "sds" else "loaded"
                level = "confirmed" if slot[1] == "node" or probed else level
                named = {x["authority"], ("entry", x["entry"])}
                command = next((c for c in reversed(self.commands) if c[3] > x["position"] and c[0] & named), None)
                o = self.open(slot, serial, command, on_time=on_time, hard=x["na"], level=level, **{"class": CLASSES[slot[1]]})
                o.update(node=x["node"], entry=x["entry"])
                self.excuse(o, self.gone.get(("entry", x["entry"])) or self.gone.get(("node", x["node"])))
                for later in self.of[slot][self.of[slot].index(serial) + 1:]:
                    self.evidence(slot, later, "issued", self.issued[later]["at"], self.issued[later])
    def activated(self, body, t, a, p, name):  # 20 to 23
        same, hard = {"grace": 0, "level": "confirmed", "class": name}, body["not_after"] * 1000
        done = {"reached": t, "bad": bool(body["forced"]), "by": dict.fromkeys(LEVELS, t)}
        if p and p not in self.retired:
            self.steps[p] = self.retired[p] = old = self.steps.get(p) or self.open(("", p), p, on_time=t, hard=t, **same)
            old.update(done if old["reached"] == NEVER and not old["superseded"] else {})
            if name != "root":
                bad = bool(body["forced"] or body["missing"])
                self.open(("bundle", p), p, on_time=t, hard=t, **{**same, "class": "bundle"}).update(done, bad=bad)
        if a not in self.steps: self.steps[a] = self.open(("", a), a, on_time=body.get("safe_ms") or hard, hard=hard, **same)
    def counts(self, begin, end, as_of):  # 12
        found, as_of = {}, max(as_of, self.clock)
        for o in self.closed + [o for owed in self.owed.values() for o in owed]:
            if begin <= o["on_time"] - o["on_time"] % 300000 < end:
                so = self.outcome(o, as_of)
                row = {"due": 1, so: 1, "tries": o["tries"], "refused": o["refused"], "recreated": o["again"] * (so == "excused")}
                for at, level in enumerate(LEVELS if so not in ("excused", "superseded", "unused") else ()):
                    row[level] = int(any(o["by"].get(one, NEVER) <= o["on_time"] for one in LEVELS[at:]))
                of = found.setdefault(o["class"], {})
                of.update({name: of.get(name, 0) + n for name, n in row.items() if n})
        return found
def main(path, trust):  # 5. All of it, step by step.
    pack, wrong, held = Pack(path), [], [checkpoint(data)[:3] for data in trust if DASH in data]
    manifest, definition = pack.manifest, pack.small("definition.json")
    origin, keys = f"trustfed/{manifest['trust_domain']}/", json.loads(pack.small("keys.json"))
    words = [w.strip() for data in trust if DASH not in data for w in data.decode().splitlines() if w.strip() and w[:1] != "#"]
    said, size, root, text, signatures = checkpoint(pack.small("checkpoint"))
    tree, cuts, decided, roots, keyed, lives, told = Tree(), {0: (Tree().root(), 0, 0)}, {}, {}, None, {}, {}
    for position, event in pack.entries("journal", tree):
        body = event["body"]
        if event["kind"] == "log.checkpoint" and body["origin"] == origin + "ledger":
            cuts.setdefault(body["size"], (raw(body["root"]), event["at"], position))
        keyed = body["publication_key"] if event["kind"] == "cluster.keyed" and not keyed else keyed
        decided.update({position: (event["kind"], event["at"], body)} if event["kind"].split(".")[0] in DECIDED else {})
        if event["kind"] == "authority.prepared":
            life = (datetime.fromisoformat(body[n]).timestamp() for n in ("not_before", "not_after"))
            lives.setdefault(body["id"], (body["kind"], *map(int, life)))  # the first counts
        roots.update({position: tree.root()} if position in [one[1] for one in held] else {})
    good = (manifest["journal"]["first"], said, size, root) == (1, origin + "journal", tree.size, tree.root())
    check("journal", good, f"{tree.size} events, whole, and the checkpoint of {said} at {size}")
    check("signature", signed(text, signatures, vkey(keys["log"])), "the checkpoint is signed by the log's key")
    fingerprint, known = endorser(keys, manifest["trust_domain"]), bool(words or held)
    check("key", keyed == keys["publication_key"], "the publication key is the one that the journal begins with")
    for key in keys["cosigners"] + [word for word in words if "+" in word and vkey(word)[2] == 4]:
        check("cosignature", signed(text, signatures, vkey(key)), f"cosigned by {vkey(key)[0]}")
    if logs := [word for word in words if word.startswith("sha256:") or vkey(word)[2] == 1]:
        check("origin", keys["log"] in logs or fingerprint in logs, "the log's key is one that you trust")
    for log, at, seen in held:
        check("checkpoint", log == said and roots.get(at) == seen, f"the pack goes through the one that you hold, of {at}")
    begin, fold, newest = manifest["ledger"]["first"] - 1, Fold(json.loads(definition)), 0
    tree = Tree(begin, [bytes.fromhex(one) for one in json.loads(pack.small("opening.json"))])
    opened = cuts.get(begin, (b"", NEVER, 0))
    check("opening", opened[0] == tree.root(), f"the journal says that the ledger was so at {begin}")
    check("definition", hashlib.sha256(definition).hexdigest() == manifest["definition"] == VERSION_1, "it is version 1")
    for position, fact in pack.entries("ledger", tree):
        if fact["kind"] in MIRRORS:
            once = (fact["body"]["journal"], fact["kind"], fact["kind"] == "authority.step" and fact["body"]["authority"])
            wrong += [] if once not in told and once[0] >= newest and agrees(fact, decided, lives) else [position]
            told[once], told[once[:2]], newest = True, True, max(newest, once[0])
        fold.take(position, fact)
    closed, close = cuts.get(tree.size, (b"", 0, 0)), fold.d["close_ms"]
    check("ledger", closed[0] == tree.root(), f"{tree.size - begin} facts, without a gap, and the journal's checkpoint")
    check("mirror", not wrong, f"facts that say otherwise than the journal: {wrong[:9] or 'none'}")
    due = [(at, by) for at, (by, when, _) in decided.items() if at > opened[2] and (at <= newest or when < closed[1] - close)]
    lost = [at for at, by in due for kind, of in MIRRORS.items() if by in of and (at, kind) not in told]
    check("mirror", not lost, f"decisions in the journal that no fact tells of: {lost[:9] or 'none'}")
    since, to, as_of = (manifest[one] for one in ("from_ms", "to_ms", "as_of_ms"))
    signers = [(a * 1000, z * 1000) for kind, a, z in lives.values() if kind == "x509"]  # no SVID outlives its authority
    spans = [z - a for a, z in signers if z > since and a < to] or [fold.d["lead_ms"]]
    longest = max(spans + [x["na"] - x["nb"] for x in fold.issued.values() if x["na"] > since and x["nb"] < to])
    good = (tree.size == max(cuts) or closed[1] >= to + longest + close) and (begin == 0 or opened[1] <= since - longest)
    check("scope", good, f"the facts reach as far as what falls due from {since} to {to} (Unix ms), seen at {as_of}, depends on")
    counts = fold.counts(since, to, as_of)
    check("figures", counts == json.loads(pack.small("figures.json"))["counts"], f"computed anew: {json.dumps(counts)}")
    print("failed" if FAULTS else "verified" if known else "consistent; origin not established")
    return 1 if FAULTS else 0 if known else 3
def run(path, trust):  # The exit code, whatever the pack holds.
    try:
        return main(path, trust)
    except (OSError, ValueError, KeyError, IndexError, TypeError, tarfile.TarError, InvalidSignature, EOFError) as error:
        print(f"FAILS  reading: {type(error).__name__}: {str(error)[:200]}\nfailed")
        return 1
if __name__ == "__main__":
    sys.exit(run(sys.argv[1], [pathlib.Path(arg).read_bytes() for arg in sys.argv[2:] if arg != "--trust"]))
