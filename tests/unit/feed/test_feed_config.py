"""What a feed's configuration may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustfed.errors import Invalid
from trustfed.feed.__main__ import main
from trustfed.feed.config import FeedConfig
from trustfed.runtime.config import load

GOOD = """
trust_domain = "west"
cluster = ["127.0.0.1:8443", "cluster.example:8443"]
workload_socket = "agent.sock"
data_dir = "data"
[output]
directory = "istio"
"""


def read(folder: Path, text: str) -> FeedConfig:
    (folder / "feed.toml").write_text(text)
    return load(folder / "feed.toml", FeedConfig)


def test_a_good_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read(tmp_path, GOOD)
    assert config.admin_path == tmp_path / "data" / "admin.sock" and config.output.directory == tmp_path / "istio"
    assert main(["serve", "--config", str(tmp_path / "feed.toml"), "--check"]) == 0
    assert "routes of west to" in capsys.readouterr().out
    assert read(tmp_path, GOOD + 'mcp = "[::1]:9901"\n').output.mcp == "[::1]:9901"
    assert config.output.istiod == "127.0.0.1:15012" and read(tmp_path, GOOD + 'istiod = ""\n').output.istiod == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('directory = "istio"', ""), "directory or mcp"),
        (('directory = "istio"', 'mcp = "0.0.0.0:9901"'), "only loopback is allowed"),
        (('directory = "istio"', 'mcp = "10.0.0.7:9901"'), "only loopback is allowed"),
        (('directory = "istio"', 'mcp = "[::]:9901"'), "only loopback is allowed"),
        (('directory = "istio"', 'mcp = "istiod.example:9901"'), "only loopback is allowed"),
        (('directory = "istio"', 'mcp = "9901"'), "is not HOST:PORT"),
        (('directory = "istio"', 'directory = "istio"\nistiod = "15012"'), "is not HOST:PORT"),
        (('directory = "istio"', 'directory = "data"'), "the same folder"),
        (('["127.0.0.1:8443", "cluster.example:8443"]', "[]"), "1 to 16 addresses"),
        (('"127.0.0.1:8443"', '"nowhere"'), "is not HOST:PORT"),
        (('data_dir = "data"', 'data_dir = "data"\nspiffe_id = "spiffe://east/feed"'), "not of west"),
        (('data_dir = "data"', f'data_dir = "data"\nadmin_socket = "/{"a" * 120}"'), "longer than"),
        (('directory = "istio"', 'directori = "istio"'), "did you mean directory"),
    ],
)
def test_each_fault_is_said(
    tmp_path: Path, change: tuple[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Invalid, match=words):
        read(tmp_path, GOOD.replace(*change))
    assert main(["serve", "--config", str(tmp_path / "feed.toml")]) == 2
    assert words in capsys.readouterr().err
