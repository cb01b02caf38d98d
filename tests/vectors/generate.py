"""Writes the test vectors: `python -m tests.vectors.generate`. The same bytes every time, and a test compares them.

Each folder has one file or more per vector, named after its fault, and `index.json`: name, fault, and a part of the
error that must refuse it (none: it must be accepted).
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.vectors import make_bundle, make_jwtsvid, make_spiffeid, make_x509svid
from tests.vectors.forge import Vector

HERE = Path(__file__).parent
KINDS = {
    "spiffeid": make_spiffeid.vectors,
    "x509svid": make_x509svid.vectors,
    "jwtsvid": make_jwtsvid.vectors,
    "bundle": make_bundle.vectors,
}


def files(kind: str) -> dict[str, bytes]:
    """Every file of one folder, made anew."""
    made = KINDS[kind]()
    contents = {f"{vector.name}{suffix}": data for vector in made for suffix, data in vector.files.items()}
    assert len(contents) == sum(len(vector.files) for vector in made), "two vectors of one name"
    index = [{"name": v.name, "fault": v.fault, "error": v.error, "files": sorted(v.files), **v.extra} for v in made]
    if kind == "jwtsvid":
        contents["bundles.json"] = make_jwtsvid.bundles()
    contents["index.json"] = (json.dumps(index, indent=1, ensure_ascii=True) + "\n").encode()
    return contents


def load(kind: str) -> list[Vector]:
    """The committed vectors of one folder, as its index lists them."""
    folder = HERE / kind
    vectors = []
    for entry in json.loads((folder / "index.json").read_bytes()):
        name, suffixes = entry.pop("name"), entry.pop("files")
        data = {suffix: (folder / f"{name}{suffix}").read_bytes() for suffix in suffixes}
        vectors.append(Vector(name, entry.pop("fault"), data, entry.pop("error"), entry))
    return vectors


def main() -> None:
    for kind in KINDS:
        folder = HERE / kind
        folder.mkdir(exist_ok=True)
        for stale in folder.iterdir():
            stale.unlink()
        for name, data in files(kind).items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
