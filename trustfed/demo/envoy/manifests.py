"""Kubernetes objects as a feed leaves them in its directory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from trustfed.errors import Invalid

Document: TypeAlias = Mapping[str, Any]
_ENDINGS = frozenset({".yaml", ".yml", ".json"})


def read_directory(directory: Path) -> list[Document]:
    """Every object below `directory`, as istiod's `fs://` source finds them: recursive, no symbolic links.

    JSON documents only (they are YAML, and what trustfed writes). Raises Invalid; FileNotFoundError when a file was
    replaced meanwhile: read again.
    """
    found: list[Document] = []
    if not directory.is_dir():
        return found
    for path in sorted(directory.rglob("*")):
        if path.suffix in _ENDINGS and not path.name.startswith(".") and path.is_file() and not path.is_symlink():
            found += parse(path.read_text(), str(path))
    return found


def parse(text: str, what: str) -> list[Document]:
    """The objects in one file: JSON documents, between lines of `---`."""
    found: list[Document] = []
    for part in f"\n{text}\n".split("\n---\n"):
        if not part.strip():
            continue
        try:
            document = json.loads(part)
            known = isinstance(document["spec"], dict) and isinstance(document["metadata"]["name"], str)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise Invalid(f"{what} is no Kubernetes object in JSON")
        found.append(document)
    return found


def of_kind(documents: Iterable[Document], kind: str) -> list[Document]:
    """Those of one kind, the oldest first: istiod lets the oldest of two rules for one host win."""
    found = [one for one in documents if one.get("kind") == kind]
    return sorted(found, key=lambda one: (str(one["metadata"].get("creationTimestamp", "")), one["metadata"]["name"]))


def only(fields: Mapping[str, object], known: Sequence[str], what: str) -> None:
    """Raise Invalid for a field that this stand-in for istiod does not translate."""
    if unknown := sorted(set(fields) - set(known)):
        raise Invalid(f"{what} has the field {unknown[0]}, which this proof does not translate")


def named(document: Document) -> str:
    """KIND NAMESPACE/NAME, for errors."""
    metadata = document["metadata"]
    return f"{document.get('kind')} {metadata.get('namespace', '')}/{metadata['name']}"
