"""Why what lies on the disk is not used: one word per reason, for status, logs, metrics and tests."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "missing_key",
    "damaged_key",
    "other_sealing",
    "no_passphrase",
    "wrong_passphrase",
    "missing_counter",
    "missing_manifest",
    "missing_segment",
    "unknown_version",
    "truncated",
    "damaged",
    "swapped",
    "other_node",
    "other_key",
    "other_life",
    "rollback",
    "symlink",
    "not_a_file",
    "other_owner",
    "open_modes",
    "too_large",
    "unreadable",
]


class Refused(Exception):
    """What was found is not used. `message` says which file and what is wrong, `hint` what a person can do."""

    def __init__(self, reason: Reason, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.reason, self.message, self.hint = reason, message, hint

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
