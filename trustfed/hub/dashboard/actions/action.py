"""What an action is: what it asks for, what it would touch, and how it is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from trustfed.hub.access import Caller
from trustfed.hub.dashboard.parts import DashboardParts

Values = Mapping[str, str]
"""Checked values of an action's fields, by name."""


@dataclass(frozen=True)
class Field:
    """One thing that an action has to be told. `options` are what may be chosen; without them it is typed.

    `check` gives the value as it is used, or raises Invalid or NotFound: for options and for typed text alike.
    """

    name: str
    label: str
    note: str = ""
    optional: bool = False
    options: Callable[[DashboardParts, Values], Sequence[tuple[str, str]]] | None = None
    check: Callable[[DashboardParts, str, Values], str] | None = None


@dataclass(frozen=True)
class Fact:
    """One line of what an action touches: how many, and where one sees them."""

    label: str
    value: str
    href: str = ""


@dataclass(frozen=True)
class Blast:
    """What an action touches, as far as the hub knows now. `blocked` is why it cannot be done at all."""

    facts: Sequence[Fact]
    warnings: Sequence[str] = ()
    blocked: str = ""
    as_of_ms: int | None = None


@dataclass(frozen=True)
class Done:
    """What became of it: where one goes from here to see it."""

    href: str


@dataclass(frozen=True)
class Asking:
    """Who asks for an action, with which values and why."""

    caller: Caller
    values: Values
    reason: str
    break_glass: bool = False


@dataclass(frozen=True)
class Action:
    """One action. `people` is 2 for what moves a CA: then `perform` proposes, unless the glass is broken."""

    kind: str
    title: str
    does: str
    role: str
    fields: Sequence[Field]
    blast: Callable[[DashboardParts, Values], Blast]
    perform: Callable[[DashboardParts, Asking], Awaitable[Done]]
    group: str
    people: int = 1
    danger: bool = False
    learn: Callable[[DashboardParts, Values], Awaitable[Blast]] | None = None
    """What else it touches, asked of the cluster while the page is made; it blocks nothing."""
