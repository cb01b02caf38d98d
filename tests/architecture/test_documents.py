"""The documents say what is so: their commands run, their links lead somewhere, their tables are the code's."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.main

from tests.architecture.fences import Block, Command, blocks, commands, unmatched
from tests.architecture.reference import FOLDERS, PROCESSES, meanings, metrics, metrics_table, routes, table, written
from tests.architecture.tree import ROOT, documents, files, text
from tests.fakes.cluster import Domain
from tests.fakes.foreign_peer import ForeignPeer, WebCa
from trustfed.cli.main import NOUNS, load
from trustfed.demo.ports import free_port
from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.runtime.config import build
from trustfed.runtime.errors import answer

OPERATIONS = Path("docs/operations.md")
MESH = Path("docs/mesh.md")
EVIDENCE = Path("docs/evidence.md")
PAGES = (OPERATIONS, MESH, EVIDENCE)
_PORTS = re.compile(r"(?<=127\.0\.0\.1:)\d{4}\b|(?<=s/)\d{4}(?=/\d{4}/)|(?<=\d/)\d{4}(?=/)")
_REDIRECTION = re.compile(r"\s*(?:\d?>>?|<)\s*(?:&\d|[^\s;&|)]+)")
FORBIDDEN = {
    "a registry's address": r"pypi\.org|files\.pythonhosted|crates\.io|repo\.maven|registry\.npmjs|proxy\.golang",
    "a path of some machine": r"(?<![\w.-])/(?:work|tmp|home|root)(?:/|\b)",
    "how it was made": r"(?<!TLS )(?<!role )(?<!\{)\bsessions?\b(?!\.db)|\bAI\b|helper agent|language model|\bLLM\b",
    "what is not done": r"\b(?:TODO|FIXME|XXX|TBD)\b|production you would|left as an exercise|coming soon",
}
_PUBLISHED = r"PUBLIC/(?:bundles|tuf|envelopes|clusters|mesh|routes)/"
COMMAND_SECONDS = 30


@pytest.mark.parametrize("path", documents(), ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    """Relative links name files of the tree, and headings that are there."""
    for label, target in re.findall(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", _without_code(text(path))):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), f"{path}: [{label}]({target})"
            continue
        name, _, heading = target.partition("#")
        found = (path.parent / name) if name else path
        resolved = Path(os.path.normpath(found))
        assert resolved in files() or any(one.is_relative_to(resolved) for one in files()), f"{path}: {target}"
        if heading:
            assert heading in _headings(text(resolved)), f"{path}: {target}: no such heading"


@pytest.mark.parametrize("path", documents(), ids=str)
def test_no_document_says_what_belongs_elsewhere(path: Path) -> None:
    """No registry addresses, machine paths, tools of making, or work left over."""
    assert not _forbidden(re.sub(r"`[\w/]+\.py`", "", text(path)))


def test_the_word_check_can_fail() -> None:
    for bad in ("see /tmp/x", "TODO: more", "our helper agent", "in production you would", "this session", "pypi.org"):
        assert _forbidden(bad), bad
    assert not _forbidden(
        "a TLS session, a role session of AWS, {session}, DATA/sessions.db, /var/lib/trustfed, sessionless"
    )


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    """0001, 0002, ...; each begins with its number, and stands in the list."""
    found = sorted(path for path in documents() if re.match(r"docs/decisions/\d", str(path)))
    assert [path.name[:4] for path in found] == [f"{number:04}" for number in range(1, len(found) + 1)]
    listed = text(Path("docs/decisions/README.md"))
    for path in found:
        assert text(path).startswith(f"# {path.name[:4]}: ")
        assert f"]({path.name})" in listed, path


def test_every_page_is_reachable_from_the_readme() -> None:
    """A page that nobody links to is read by nobody."""
    seen, waiting = set(), [Path("README.md")]
    while waiting:
        path = waiting.pop()
        if path in seen or path not in documents():
            continue
        seen.add(path)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text(path)):
            linked = Path(os.path.normpath(path.parent / target))
            waiting += [one for one in (linked, linked / "README.md") if one in documents()]
    assert {path for path in documents() if path.parts[0] == "docs"} <= seen


def _trustfed_lines(path: Path) -> Iterator[str]:
    for block in blocks(text(path)):
        said = [command.text for command in commands(block)] if block.language == "console" else []
        said += block.body.splitlines() if block.language == "sh" else []
        for line in said:
            plain = _REDIRECTION.sub("", re.sub(r"\$\((?:id -u|cat last)\)", "0", line))
            yield from re.findall(r"(?:^|[|(&;]\s*|until )(trustfed [^|;&)]*)", plain, re.MULTILINE)
    # Indented blocks hold commands that are not run here.
    yield from re.findall(r"^    (trustfed .*)$", text(path), re.MULTILINE)


@pytest.mark.parametrize("path", documents(), ids=str)
def test_commands_of_the_documents_are_commands(path: Path) -> None:
    """Every trustfed command that a document shows is understood, options and all; `code` in a text at least by name."""
    for line in _trustfed_lines(path):
        _understood(line, path)
    for noun, verb in re.findall(r"`trustfed ([a-z]+) ([a-z0-9]+(?:-[a-z0-9]+)*)", _without_fences(text(path))):
        assert noun in NOUNS, f"{path}: trustfed {noun}"
        command = load(noun)
        assert verb in getattr(command, "commands", {verb: None}), f"{path}: trustfed {noun} {verb}"


def test_the_command_check_can_fail() -> None:
    for bad in ("trustfed grunt list", "trustfed grant offer west", "trustfed node ban n --because x"):
        with pytest.raises(AssertionError):
            _understood(bad, Path("here"))


def test_make_targets_of_the_documents_exist() -> None:
    """`make x` in a document is a target of the Makefile, and the README names the five that a newcomer needs."""
    targets = set(re.findall(r"^([a-z-]+):", text(Path("Makefile")), re.MULTILINE))
    for path in documents():
        for target in re.findall(r"`make ([a-z]+)`|^(?:\$|   ) ?make ([a-z]+)", text(path), re.MULTILINE):
            assert "".join(target) in targets, f"{path}: make {''.join(target)}"
    for target in ("run", "test", "interop", "bench", "chaos"):
        assert f"make {target}" in text(Path("README.md"))


def _run_together(pages: dict[Path, str]) -> Iterator[Block]:
    """The blocks of the operations page; before its last one, which stops everything, those of the pages that go on with it."""
    *first, last = blocks(pages[OPERATIONS], OPERATIONS)
    yield from first
    for path in [path for path in pages if path != OPERATIONS]:
        # Gateways of the page's example are on this machine's loopback: nothing of a test leaves it.
        yield from blocks(re.sub(r"203\.0\.113\.(\d+)", r"127.0.113.\1", pages[path]), path)
    yield last


@pytest.mark.timeout(300)
def test_the_commands_of_the_pages_run(tmp_path: Path) -> None:
    """Of operations, the mesh page and evidence, in order, in one shell and one empty folder: each prints what its page shows."""
    pages, ca = {path: text(path) for path in PAGES}, WebCa()
    # The one other organisation of the page, on this machine's loopback, which a cluster asks by exception only.
    with ForeignPeer(Domain("partner.example"), ca.server()) as peer:
        pages[OPERATIONS] = pages[OPERATIONS].replace("https://trust.partner.example/bundle", peer.url)
        with _Transcript(list(_run_together(pages))) as transcript:
            loopback = 'allow_{} = ["127.0.0.0/8"]\n'
            transcript.more["hub.toml"] = f"\n[mesh]\n{loopback.format('networks')}"
            transcript.more["west.toml"] = (
                f"\n[foreign]\n{loopback.format('addresses')}\n[mesh]\n{loopback.format('networks')}"
            )
            (transcript.folder / "partner-ca.pem").write_text(ssl.DER_cert_to_PEM_cert(ca.der))
            transcript.run()
            _files_are_listed(transcript.folder)


def test_the_parts_of_configurations_that_the_pages_show_are_understood(tmp_path: Path) -> None:
    """```toml hub``` and its like: what a process's file may hold, beside what it must."""
    needed = {"data_dir": "x", "trust_domain": "x", "socket": "x"}
    doors = {"grpc": {"listen": "127.0.0.1:1"}, "bundle_spiffe": {"listen": "127.0.0.1:2"}}
    found = [one for path in PAGES for one in blocks(text(path), path) if one.language == "toml" and not one.file]
    assert found
    for block in found:
        cls = PROCESSES[block.about]
        names = {field.name for field in dataclasses.fields(cls)}
        base = {key: value for key, value in {**needed, **doors}.items() if key in names}
        body = re.sub(r'"/run/secrets/([\w-]+)"', lambda match: f'"{_secret(tmp_path, match[1])}"', block.body)
        build(base | tomllib.loads(body), cls, folder=tmp_path, source=f"{block.page}:{block.line}")


def test_the_transcript_can_fail() -> None:
    """A command that fails is named, and so is output that is not as shown."""
    page = "```console\n$ echo one two\none ...\n$ {}\n{}\n```\n"
    for command, shown, words in (
        ("false", "", r"\$ false"),
        ("echo b", "c", "lacks"),
        ("echo b; exit 3", "b", "exit 3"),
    ):
        with pytest.raises(AssertionError, match=words), _Transcript(list(blocks(page.format(command, shown)))) as run:
            run.run()
    with _Transcript(list(blocks(page.format("echo $((2 + 1))", "3")))) as run:
        run.run()


@pytest.mark.parametrize("process", PROCESSES)
def test_the_configuration_reference_is_the_code_s(process: str) -> None:
    """Keys, types and defaults as in the dataclasses (`python -m tests.architecture.reference` writes them), each explained."""
    found = written(text(Path("docs/reference/configuration.md")), process)
    said = meanings(found)
    assert found == table(PROCESSES[process], said)
    assert all(said.values()), [key for key, meaning in said.items() if not meaning]


@pytest.mark.parametrize(("process", "folder"), FOLDERS.items())
def test_the_metrics_reference_is_the_code_s(process: str, folder: str) -> None:
    """Every metric that a process registers (`python -m tests.architecture.reference` writes them), and no other."""
    assert metrics(folder)
    assert written(text(Path("docs/reference/metrics.md")), process) == metrics_table(folder)


@pytest.mark.parametrize(("heading", "folder"), FOLDERS.items())
def test_the_http_reference_has_every_route(heading: str, folder: str) -> None:
    """And none that is not there."""
    page = text(Path("docs/reference/http.md"))
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert section
    listed = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", section[1], re.MULTILINE))
    assert listed == {re.sub(r"\{(\w+?)_?\}", r"{\1}", route) for route in routes(folder)}


def test_the_wire_reference_names_every_method() -> None:
    """Every rpc and every message of a stream."""
    page = text(Path("docs/reference/wire.md"))
    for path in (path for path in files() if path.suffix == ".proto"):
        for name in re.findall(r"^  rpc (\w+)", text(path), re.MULTILINE):
            assert f"`{name}`" in page, f"{path}: {name}"
        for stream in re.findall(r"oneof message \{(.*?)\}", text(path), re.DOTALL):
            for name in re.findall(r"(\w+) = \d+;", stream):
                assert f"`{name}`" in page, f"{path}: {name}"


def test_the_error_reference_is_the_code_s() -> None:
    """HTTP status, gRPC code and exit code of each kind of error."""
    page = text(Path("docs/reference/errors.md"))
    kinds: list[type[TrustfedError]] = [Invalid, Denied, NotFound, Conflict, Unavailable]
    for kind in kinds:
        said = answer(kind("x"))
        assert f"| {kind.__name__} | {said.http_status} | {said.grpc_code} " in page, kind
        assert re.search(rf"^\| {kind.__name__} \|.*\| {said.exit_code} \|", page, re.MULTILINE), kind


class _Transcript:
    """Runs the console blocks of a page in one shell; every process that they start ends with it."""

    def __init__(self, page: list[Block]) -> None:
        self._page = page
        self._ports: dict[str, str] = {}
        self.more: dict[str, str] = {}
        """What is added to a file that the page shows: what only this machine needs."""
        # A Unix socket's path has at most 107 bytes: pytest's own folders are longer.
        self.folder = Path(tempfile.mkdtemp(prefix="page-"))
        self._shell: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Transcript:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shell is not None:
            self._signal(signal.SIGKILL)
            self._shell.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self) -> None:
        every: list[Command] = []
        script = ["set -Eeuo pipefail", "set -m"]
        for block in self._page:
            if block.file:
                (self.folder / block.file).write_text(self._local(block.body) + self.more.get(block.file, ""))
            elif block.language == "console":
                for command in commands(block):
                    script += [f"echo; echo '@@ {len(every)}'", self._local(command.text)]
                    every.append(command)
        script.append(f"echo; echo '@@ {len(every)}'")
        output = self._execute("\n".join(script))
        parts = re.split(r"^@@ (\d+)\n", output, flags=re.MULTILINE)
        results = {int(number): said for number, said in zip(parts[1::2], parts[2::2], strict=True)}
        last = max(results, default=0)
        if last < len(every):
            raise AssertionError(
                f"{every[last].page}:{every[last].line}: $ {every[last].text}\n{results.get(last, output)}\n{self._logs()}"
            )
        for number, command in enumerate(every):
            missing = unmatched(command.shown, results[number])
            assert not missing, f"{command.page}:{command.line}: $ {command.text}\n{results[number]}lacks {missing}"

    def _execute(self, script: str) -> str:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        output = self.folder / "transcript"
        (self.folder / "script").write_text(script)
        with output.open("wb") as sink:
            self._shell = subprocess.Popen(
                ["bash", "script"],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait(output)
        return output.read_text(errors="replace")

    def _wait(self, output: Path) -> None:
        """Until the shell ends, or one of its commands takes too long."""
        assert self._shell is not None
        begun, at = time.monotonic(), -1
        while self._shell.poll() is None:
            here = output.read_bytes().count(b"\n@@ ")
            if here != at:
                begun, at = time.monotonic(), here
            if time.monotonic() > begun + COMMAND_SECONDS:
                self._signal(signal.SIGKILL)
                self._shell.wait(10)
            time.sleep(0.05)

    def _signal(self, number: signal.Signals) -> None:
        """To the shell and all that it started: with job control each has a group of its own, in one session."""
        assert self._shell is not None
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._shell.pid:
                    os.kill(int(entry.parent.name), number)
            except (OSError, ValueError):
                continue

    def _logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-12:])
            for path in sorted(self.folder.glob("*.log"))
        )

    def _local(self, said: str) -> str:
        """The same with free ports: tests run side by side."""
        return _PORTS.sub(lambda match: self._ports.setdefault(match[0], str(free_port())), said)


def _files_are_listed(folder: Path) -> None:
    """Whatever the processes left on disk stands in docs/reference/files.md, and is closed to others unless it is public."""
    page = text(Path("docs/reference/files.md"))
    homes = {"hub": ("hub",), "cluster": ("west", "east"), "agent": ("node-1", "node-2"), "feed": ("feed",)}
    for heading, folders in homes.items():
        section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        assert section
        listed = [
            re.compile(re.escape(one).replace("NAME", "[a-z0-9-]+").replace(r"\-N", r"-\d+").replace(r"\*", "[a-z]+"))
            for one in re.findall(r"`((?:DATA|PUBLIC)/[^`]*)`", section[1])
        ]
        for name in folders:
            home = folder / name
            found = [path for path in home.rglob("*") if not path.is_dir()]
            assert found, home
            for path in [home, *home.rglob("*")]:
                assert path.stat().st_mode & 0o077 == 0, f"{path} is open to others"
            for path in found:
                place = f"DATA/{path.relative_to(home)}"
                assert any(pattern.fullmatch(place) for pattern in listed), f"{place} of the {heading} is not listed"
    for path in (folder / "public").rglob("*"):
        if path.is_file():
            place = f"PUBLIC/{path.relative_to(folder / 'public')}"
            assert place in ("PUBLIC/.publisher.lock", "PUBLIC/bundle-map") or re.match(_PUBLISHED, place), place


def _secret(folder: Path, name: str) -> Path:
    path = folder / name
    path.touch(mode=0o600)
    path.write_text("a secret of some length\n")
    return path


def _forbidden(said: str) -> list[str]:
    return [f"{what}: {found[0]}" for what, pattern in FORBIDDEN.items() if (found := re.search(pattern, said))]


def _understood(line: str, path: Path) -> None:
    """Parse a command line as the program would, without running it."""
    words = [word for word in shlex.split(line) if not re.fullmatch(r"\d?>>?.*|&", word)]
    where = f"{path}: {line}"
    if len(words) < 2 or words[1].startswith("-"):
        return
    noun, rest = words[1], words[2:]
    assert noun in NOUNS, where
    command = load(noun)
    try:
        if hasattr(command, "commands"):
            assert rest and (rest[0] in command.commands or rest[0].startswith("-")), where
            if rest[0] in command.commands:
                command.commands[rest[0]].make_context(rest[0], rest[1:])
        else:
            command.make_context(noun, rest)
    except typer.Exit:
        return
    except Exception as error:
        raise AssertionError(f"{where}: {error}") from error


def _headings(document: str) -> set[str]:
    found = re.findall(r"^#+ (.*)$", _without_fences(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def _without_fences(document: str) -> str:
    return re.sub(r"^```.*?^```$", "", document, flags=re.MULTILINE | re.DOTALL)


def _without_code(document: str) -> str:
    return re.sub(r"`[^`\n]*`", "", _without_fences(document))
