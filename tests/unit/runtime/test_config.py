"""Configuration: every fault at once, named by its place, and no value of the file in an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from trustfed.cluster.config import ClusterConfig
from trustfed.errors import Invalid, NotFound
from trustfed.hub.config import HubConfig
from trustfed.runtime.config import SecretFile, duration, load
from trustfed.spiffe.ids import TrustDomain


@dataclass(frozen=True)
class Listen:
    address: str = "127.0.0.1:0"
    backlog: int = 5

    def __post_init__(self) -> None:
        if self.backlog < 1:
            raise Invalid("backlog must be at least 1", hint="such as 128")


@dataclass(frozen=True)
class Peer:
    name: TrustDomain
    weight: float = 1.0


@dataclass(frozen=True)
class Config:
    trust_domain: TrustDomain
    data: Path
    svid_ttl: timedelta = timedelta(hours=1)
    store: Literal["file", "memory"] = "file"
    verbose: bool = False
    passphrase: SecretFile | None = None
    listen: Listen = Listen()
    peers: tuple[Peer, ...] = ()
    tags: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)


def write(folder: Path, text: str) -> Path:
    path = folder / "x.toml"
    path.write_text(text)
    return path


def faults(folder: Path, text: str) -> str:
    with pytest.raises(Invalid) as refusal:
        load(write(folder, text), Config)
    return refusal.value.message


GOOD = 'trust_domain = "west"\ndata = "state"\n'


def test_everything(tmp_path: Path) -> None:
    secret = tmp_path / "pass"
    secret.write_bytes(b"hunter2\n")
    secret.chmod(0o600)
    text = """
        trust-domain = "west"
        data = "state"
        svid_ttl = "1h30m"
        store = "memory"
        verbose = true
        passphrase = "pass"
        tags = ["a", "b"]
        [listen]
        backlog = 7
        [limits]
        nodes = 3
        [[peers]]
        name = "east"
        weight = 2
    """
    config = load(write(tmp_path, text), Config)
    assert config == Config(
        trust_domain=TrustDomain("west"),
        data=tmp_path / "state",
        svid_ttl=timedelta(minutes=90),
        store="memory",
        verbose=True,
        passphrase=SecretFile(secret),
        listen=Listen(backlog=7),
        peers=(Peer(TrustDomain("east"), 2.0),),
        tags=["a", "b"],
        limits={"nodes": 3},
    )
    assert config.passphrase and config.passphrase.read() == b"hunter2"
    assert "hunter2" not in repr(config)


def test_defaults_and_absolute_paths(tmp_path: Path) -> None:
    config = load(write(tmp_path, 'trust_domain = "west"\ndata = "/var/lib/x"\n'), Config)
    assert config.data == Path("/var/lib/x") and config.listen == Listen()


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    message = faults(
        tmp_path,
        """
        trust_domain = "WEST"
        svid_tll = "1h"
        verbose = "yes"
        store = "disk"
        tags = "a"
        limits = {nodes = "3"}
        [listen]
        backlog = true
        addres = "x"
        [[peers]]
        weight = "heavy"
        """,
    )
    assert str(tmp_path / "x.toml") in message
    for line in (
        "trust_domain: trust domain 'WEST'",
        "svid_tll: is not known; did you mean svid_ttl?",
        "verbose: must be true or false, not a string",
        "store: must be one of 'file', 'memory', not a string",
        "tags: must be a list, not a string",
        "limits.nodes: must be a whole number, not a string",
        "listen.backlog: must be a whole number, not true or false",
        "listen.addres: is not known; did you mean address?",
        "peers[0].weight: must be a number, not a string",
        "peers[0].name: is missing; it must be a string",
        "data: is missing; it must be a path",
    ):
        assert line in message, line
    assert "11 fault(s)" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('svid_ttl = "1x"', "svid_ttl: '1x' is not a duration"),
        ("svid_ttl = 60", 'svid_ttl: must be a duration such as "2m" or "1h30m", not a whole number'),
        ("listen = 5", "listen: must be a table, not a whole number"),
        ("peers = [5]", "peers[0]: must be a table"),
        ("peers = {}", "peers: must be a list, not a table"),
        ("[listen]\nbacklog = 0", "listen: backlog must be at least 1 (such as 128)"),
        ("zzzzzz = 1", "zzzzzz: is not known; known here: data, limits"),
        ("svid-ttl = '1h'\nsvid_ttl = '1h'", "is given twice"),
        ('passphrase = ""', "passphrase: is not a path"),
        ("store = 2026-01-01", "not a date"),
    ],
)
def test_one_fault(tmp_path: Path, text: str, said: str) -> None:
    assert said in faults(tmp_path, GOOD + text)


def test_values_are_not_repeated(tmp_path: Path) -> None:
    assert "hunter2" not in faults(tmp_path, GOOD + 'verbose = "hunter2"\ntags = "hunter2"\nstore = "hunter2"')


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o666])
def test_secret_open_to_others(tmp_path: Path, mode: int) -> None:
    secret = tmp_path / "pass"
    secret.write_bytes(b"hunter2")
    secret.chmod(mode)
    message = faults(tmp_path, GOOD + 'passphrase = "pass"')
    assert f"open to others (0{mode:o})" in message and f"chmod 600 {secret}" in message and "hunter2" not in message


def test_secret_missing_empty_or_no_file(tmp_path: Path) -> None:
    assert "does not exist" in faults(tmp_path, GOOD + 'passphrase = "pass"')
    (tmp_path / "pass").touch(0o600)
    assert "is empty" in faults(tmp_path, GOOD + 'passphrase = "pass"')
    (tmp_path / "folder").mkdir()
    assert "is a directory" in faults(tmp_path, GOOD + 'passphrase = "folder"')


def test_secret_is_read_anew_and_checked_again(tmp_path: Path) -> None:
    path = tmp_path / "pass"
    path.write_bytes(b"one")
    path.chmod(0o600)
    secret = SecretFile(path)
    path.write_bytes(b"two\r\n")
    assert secret.read() == b"two"
    path.chmod(0o644)
    with pytest.raises(Invalid, match="open to others"):
        secret.read()


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        load(tmp_path / "none.toml", Config)
    for text in ("a = ", "a = 1\na = 2", "[" * 5000):
        with pytest.raises(Invalid, match="is not TOML"):
            load(write(tmp_path, text), Config)
    (tmp_path / "x.toml").write_bytes(b"\xff")
    with pytest.raises(Invalid, match="UTF-8"):
        load(tmp_path / "x.toml", Config)
    (tmp_path / "x.toml").write_bytes(b"#" * 2_000_000)
    with pytest.raises(Invalid, match="more than"):
        load(tmp_path / "x.toml", Config)
    with pytest.raises(Invalid, match="is a directory"):
        load(tmp_path, Config)


def test_a_thousand_faults_are_cut(tmp_path: Path) -> None:
    message = faults(tmp_path, GOOD + "\n".join(f"x{i} = 1" for i in range(1000)))
    assert "1000 fault(s)" in message and "and 980 more" in message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2m", 120), ("1h30m", 5400), ("30d", 2_592_000), ("500ms", 0.5), ("1m500ms", 60.5), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "5", "-5s", "5 s", "1m1h", "1.5h", "1h1h", "s", "9999999d", "1h\n", "٣s"])
def test_not_durations(text: str) -> None:
    with pytest.raises(Invalid, match="not a duration"):
        duration(text)


def test_addresses_and_socket_paths_are_checked_before_anything_starts(tmp_path: Path) -> None:
    hub = 'trust_domain = "hub.example"\ndata_dir = "hub"\ndns_names = ["localhost"]\n'
    cluster = 'data_dir = "c"\n[grpc]\nlisten = "127.0.0.1:1"\n[bundle_spiffe]\nlisten = "127.0.0.1:2"\n'
    long = "x" * 120
    for cls, text, words in (
        (HubConfig, hub + '[grpc]\nlisten = "127.0.0.1:99999"\n', "not HOST:PORT"),
        (HubConfig, f'admin_socket = "{long}"\n{hub}', "longer than 107 bytes"),
        (ClusterConfig, cluster.replace("127.0.0.1:2", "nowhere"), "not HOST:PORT"),
        (ClusterConfig, f'admin_socket = "{long}"\n{cluster}', "longer than 107 bytes"),
    ):
        file = tmp_path / "c.toml"
        file.write_text(text)
        with pytest.raises(Invalid, match=words):
            load(file, cls)
