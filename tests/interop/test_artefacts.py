"""What we issue, judged by go-spiffe and crypto/x509, java-spiffe and CertPathValidator, `spiffe` and rustls-webpki,
and the openssl command."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.interop.artefacts import Case, make
from tests.interop.programs import PROGRAMS, need

Answers = dict[str, str | None]  # case → its detail; None: refused

KINDS = ("bundle", "svid", "spiffe", "pkix", "jwt")

# What a verifier refuses that others accept. Design §3: SPIFFE peers get [leaf], for which all agree.
REFUSES = {
    "java": {"root chain against its bundle"},  # CertPathValidator takes the path as given; it must end below the twin
    "rust": {  # rustls-webpki refuses every chain with a URI constraint, so it anchors at twins only
        "root: chain",
        "root: chain with a DNS name within the suffixes",
        "root: chain of a domain without suffixes",
    },
}


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    folder = tmp_path_factory.mktemp("issued")
    return folder, asyncio.run(make(folder))


@pytest.fixture(scope="module", params=["go", "java", "rust"])
def judged(request: pytest.FixtureRequest, issued: tuple[Path, list[Case]]) -> tuple[str, list[Case], Answers]:
    """A verifier, what it was asked, and what it said."""
    program = PROGRAMS[request.param]
    program.ready()
    folder, cases = issued
    outcome = program.run("verify", str(folder))
    assert outcome.code == 0, outcome.words
    return program.name, cases, {f["case"]: f["detail"] if f["ok"] else None for f in outcome.findings}


@pytest.mark.parametrize("kind", KINDS)
def test_an_independent_verifier_agrees(judged: tuple[str, list[Case], Answers], kind: str) -> None:
    name, cases, answers = judged
    asked = [case for case in cases if case.kind == kind]
    expected = {case.name: None if case.name in REFUSES.get(name, ()) else case.expected for case in asked}
    assert asked
    assert {case.name: _seen(answers[case.name], case) for case in asked} == expected


def test_every_case_was_answered(judged: tuple[str, list[Case], Answers]) -> None:
    _, cases, answers = judged
    assert list(answers) == [case.name for case in cases]


def test_openssl_verify_agrees(issued: tuple[Path, list[Case]]) -> None:
    need("openssl")
    folder, cases = issued
    asked = [case for case in cases if case.kind == "pkix"]
    verdicts = {}
    for case in asked:
        chain, anchors = str(case.fields["chain"]), str(case.fields["anchors"])
        argv = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore"]
        done = subprocess.run(
            [*argv, "-CAfile", anchors, "-untrusted", chain, chain], cwd=folder, capture_output=True, text=True
        )
        verdicts[case.name] = "" if done.returncode == 0 else None
        if done.returncode:
            assert "verification failed" in done.stderr, done.stderr
    assert verdicts == {case.name: case.expected for case in asked}


def _seen(detail: str | None, case: Case) -> str | None:
    """The answer, with what a library does not show ("-") taken from what was expected."""
    if detail is None or case.kind != "bundle" or case.expected is None:
        return detail
    return " ".join(e if d == "-" else d for d, e in zip(detail.split(), case.expected.split(), strict=True))
