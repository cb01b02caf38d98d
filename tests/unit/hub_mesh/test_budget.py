"""So much at once, then a little: counted per name, and forgotten once it is paid back."""

from __future__ import annotations

from trustfed.runtime import budget
from trustfed.runtime.budget import Budget


def test_what_is_spent_comes_back_slowly() -> None:
    held = Budget(10, 2.0)
    assert held.spend("a", 8, 0.0)
    assert not held.spend("a", 4, 0.0)
    assert held.wait("a", 4, 0.0) == 1.0
    assert held.spend("b", 10, 0.0)  # each pays for itself
    assert held.spend("a", 4, 1.0)
    assert held.wait("a", 10, 1.0) == 5.0


def test_more_than_there_ever_is_wants_all_of_it() -> None:
    held = Budget(10, 2.0)
    assert held.spend("a", 1_000, 0.0)
    assert held.wait("a", 1_000, 0.0) == 5.0


def test_who_has_all_of_it_again_is_forgotten(monkeypatch: object) -> None:
    monkeypatch.setattr(budget, "_SWEEP_AT", 10)  # type: ignore[attr-defined]
    held = Budget(10, 2.0)
    for number in range(1_000):
        held.spend(f"n{number}", 1, float(number))
    assert len(held._spent) < 30
