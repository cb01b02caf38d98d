"""Tables of docs/reference that come from the code: `python -m tests.architecture.reference` writes them anew.

Keys, types and defaults are the code's; what a key means is written by hand in the last column, and kept.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from agent.config import AgentConfig
from tests.architecture.tree import ROOT, parsed, sources
from trustfed.cluster.config import ClusterConfig
from trustfed.feed.config import FeedConfig
from trustfed.hub.config import HubConfig
from trustfed.runtime.config import SecretFile
from trustfed.runtime.metrics import PREFIX

CONFIGURATION = ROOT / "docs" / "reference" / "configuration.md"
METRICS = ROOT / "docs" / "reference" / "metrics.md"
PROCESSES: dict[str, type[Any]] = {
    "hub": HubConfig,
    "cluster": ClusterConfig,
    "agent": AgentConfig,
    "feed": FeedConfig,
}
FOLDERS = {"hub": "trustfed/hub", "cluster": "trustfed/cluster", "agent": "agent", "feed": "trustfed/feed"}
_HEAD = "| key | type | default | meaning |\n|---|---|---|---|\n"
_NAMES = {
    str: "string",
    int: "whole number",
    bool: "true or false",
    float: "number",
    Path: "path",
    timedelta: "duration",
    SecretFile: "path of a secret",
}
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_KINDS = ("counter", "gauge")
_VERBS = {"get", "post", "put", "delete"}


def keys(cls: type[Any], table: str = "", needed: str = "**required**") -> Iterator[tuple[str, str, str]]:
    """(key with its table, type, default) of everything that a process's file may hold."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind, place = hints[field.name], f"{table}{field.name}"
        inner = next((one for one in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(one)), None)
        if inner is None or hasattr(inner, "parse"):
            yield place, _type(kind), _default(field, needed)
        else:
            within = "required in this table" if field.default is None else needed
            within = "required in each" if typing.get_origin(kind) is tuple else within
            yield from keys(typing.cast("type[Any]", inner), f"{place}.", within)


def table(cls: type[Any], meanings: dict[str, str]) -> str:
    """The Markdown table of a process's keys."""
    rows = (f"| `{key}` | {kind} | {default} | {meanings.get(key, '')} |\n" for key, kind, default in keys(cls))
    return _HEAD + "".join(rows)


def written(page: str, process: str) -> str:
    """The table that the page has for a process, between its two marks."""
    match = re.search(rf"<!-- {process} -->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert match, f"the page has no marks for {process}"
    return match[1]


def meanings(text: str) -> dict[str, str]:
    """key → meaning, as a table on a page says."""
    rows = re.findall(r"^\| `([^`]+)` \|[^|]*\|(?:[^|]*\|)?\s*(.*?)\s*\|$", text, re.MULTILINE)
    return dict(rows)


def routes(*folders: str) -> set[str]:
    """ "METHOD /path" of every route in these folders: FastAPI's decorators, and keys such as ("GET", "/status")."""
    found = set()
    for path in sources(*{folder.split("/")[0] for folder in folders}):
        if not any(path.is_relative_to(folder) for folder in folders):
            continue
        prefix = _prefix(parsed(path))
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Call(ast.Attribute(attr=verb), [ast.Constant(str(route)), *_]) if (
                    verb in _VERBS and (prefix + route).startswith("/") and _on_an_application(node)
                ):
                    found.add(f"{verb.upper()} {prefix}{route}")
                case ast.Tuple([ast.Constant(str(verb)), ast.Constant(str(route))]) if verb.lower() in _VERBS:
                    found.add(f"{verb} {route}")
    return found


def metrics(*folders: str) -> dict[str, tuple[str, str, str]]:
    """name (with its prefix) → (kind, labels, help) of every metric that these folders register."""
    found: dict[str, tuple[str, str, str]] = {}
    for path in sources(*{folder.split("/")[0] for folder in folders}):
        if not any(path.is_relative_to(folder) for folder in folders):
            continue
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Call(
                    ast.Attribute(ast.Name("registry" | "metrics") | ast.Attribute(attr="registry"), kind),
                    [ast.Constant(str(name)), said, *third],
                ) if kind in _KINDS:
                    given = next((word.value for word in node.keywords if word.arg == "labels"), *third or [None])
                    labels = ", ".join(ast.literal_eval(given)) if given else ""
                    found[PREFIX + name] = (kind, labels, ast.literal_eval(said))
                # One of each kind: for kind in (Standing.STALE, ...): registry.gauge(f"name_{kind}", f"... {kind}")
                case ast.For(ast.Name(member), ast.Tuple(members), [ast.Expr(call), *_]):
                    found |= _one_of_each(member, members, call)
                # Rows of names and help: for name, said, read in (("name", "help", function), ...): registry.gauge(name, said)
                case ast.For(
                    ast.Tuple([ast.Name(name), ast.Name(said), *_]), ast.Tuple(rows), [ast.Expr(call), *_]
                ) if _is_gauge_of(call, name, said):
                    for row in rows:
                        assert isinstance(row, ast.Tuple)
                        found[PREFIX + ast.literal_eval(row.elts[0])] = ("gauge", "", ast.literal_eval(row.elts[1]))
                # A table of gauges: {"name": ("help", function), ...}, and what is added to it
                case ast.Assign([ast.Subscript(ast.Name("gauges"), ast.Constant(str(name)))], ast.Tuple([said, *_])):
                    found[PREFIX + name] = ("gauge", "", ast.literal_eval(said))
                case ast.AnnAssign(ast.Name("gauges"), _, ast.Dict(names, values)):
                    for key, value in zip(names, values, strict=True):
                        assert isinstance(key, ast.Constant) and isinstance(value, ast.Tuple)
                        found[PREFIX + str(key.value)] = ("gauge", "", ast.literal_eval(value.elts[0]))
    return found


def metrics_table(*folders: str) -> str:
    """The Markdown table of a process's metrics."""
    rows = (
        f"| `{name}` | {kind} | {labels} | {said[0].lower() + said[1:] if said[1:2].islower() else said} |\n"
        for name, (kind, labels, said) in sorted(metrics(*folders).items())
    )
    return "| name | kind | labels | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _prefix(module: ast.Module) -> str:
    """What stands before every route of a file that makes an APIRouter(prefix=...)."""
    for node in ast.walk(module):
        match node:
            case ast.Call(ast.Name("APIRouter"), keywords=[ast.keyword("prefix", ast.Constant(str(prefix)))]):
                return prefix
    return ""


def _one_of_each(kind: str, members: list[ast.expr], call: ast.expr) -> dict[str, tuple[str, str, str]]:
    found = {}
    for made in ast.walk(call):
        match made:
            case ast.Call(ast.Attribute(ast.Name("registry"), "gauge"), [ast.JoinedStr() as name, said, *_]):
                for member in members:
                    assert isinstance(member, ast.Attribute)
                    spelled = {f"{{{kind}}}": member.attr.lower()}
                    found[PREFIX + _filled(name, spelled)] = ("gauge", "", _filled(said, spelled))
    return found


def _is_gauge_of(call: ast.expr, name: str, said: str) -> bool:
    return any(
        isinstance(made, ast.Call) and ast.unparse(made).startswith(f"registry.gauge({name}, {said}")
        for made in ast.walk(call)
    )


def _filled(text: ast.expr, spelled: dict[str, str]) -> str:
    said = ast.unparse(text)
    for field, value in spelled.items():
        said = said.replace(field, value)
    return str(ast.literal_eval(said.removeprefix("f")))


def _on_an_application(call: ast.Call) -> bool:
    of = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(of, ast.Name) and of.id in ("app", "router")


def _type(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _type(next(one for one in arguments if one is not type(None)))
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}s"
    if origin is dict:
        return "table"
    return _NAMES.get(kind, "string")


def _default(field: dataclasses.Field[Any], needed: str) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return needed
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, timedelta):
        return f"`{_duration(value)}`"
    return "`" + (", ".join(value) if isinstance(value, tuple) else str(value)) + "`"


def _duration(value: timedelta) -> str:
    if value % timedelta(seconds=1):
        return f"{value // timedelta(milliseconds=1)}ms"
    seconds = int(value.total_seconds())
    unit, size = next((unit, size) for unit, size in _UNITS if seconds % size == 0)
    return f"{seconds // size}{unit}"


def main() -> None:
    """Write the tables of both pages anew; meanings of configuration keys stay."""
    page = CONFIGURATION.read_text()
    for process, cls in PROCESSES.items():
        old = written(page, process)
        page = page.replace(f"<!-- {process} -->\n{old}", f"<!-- {process} -->\n{table(cls, meanings(old))}")
    CONFIGURATION.write_text(page)
    page = METRICS.read_text()
    for process, folder in FOLDERS.items():
        page = page.replace(
            f"<!-- {process} -->\n{written(page, process)}", f"<!-- {process} -->\n{metrics_table(folder)}"
        )
    METRICS.write_text(page)


if __name__ == "__main__":
    main()
