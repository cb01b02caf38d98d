"""The life of an authority, rule by rule, and under every interleaving that hypothesis finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca.lifecycle import (
    SIGNING,
    Activate,
    AuthorityState,
    Consumer,
    Kind,
    Level,
    Policy,
    Prepare,
    Reissue,
    Remove,
    RemoveTainted,
    Retire,
    Status,
    Step,
    applied,
    bundled,
    due,
    last_safe_moment,
    next_due,
    signer,
    waiting_for,
)
from tests.unit.ca.material import NOW
from trustfed.errors import Conflict, Invalid, NotFound

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
POLICY = Policy()
DAY = POLICY.ca_ttl


def authority(name: str = "a1", status: Status = Status.ACTIVE, **fields: object) -> AuthorityState:
    given = {
        "not_before": NOW,
        "not_after": NOW + DAY,
        "first_level": Level(1, 1),
        "activated_at": None if status is Status.PREPARED else NOW,
        **fields,
    }
    return AuthorityState(name, Kind.X509, status, f"x509-{name}", **given)  # type: ignore[arg-type]


# The JWT authority of a domain in which nothing is due.
JWT = replace(authority("j1"), kind=Kind.JWT, not_after=NOW + 10 * DAY)
NEXT = authority("a2", Status.PREPARED, not_before=NOW + 12 * HOUR, not_after=NOW + 36 * HOUR, first_level=Level(1, 5))


def at(moment: datetime, *authorities: AuthorityState, consumers: Sequence[Consumer] = ()) -> list[Step]:
    return due([*authorities, JWT], consumers, POLICY, moment)


def agent(level: int | None, name: str = "agent-1", live_until: datetime | None = None) -> Consumer:
    return Consumer(name, None if level is None else Level(1, level), live_until)


def test_first_authority_is_prepared_then_active_once_an_envelope_carries_it() -> None:
    assert [step for step in due([], [], POLICY, NOW) if isinstance(step, Prepare)] == due([], [], POLICY, NOW)
    first = authority(status=Status.PREPARED, first_level=None)
    assert at(NOW, first) == []
    (step,) = at(NOW, replace(first, first_level=Level(1, 1)), consumers=[agent(None)])
    assert isinstance(step, Activate) and not step.forced and step.missing == () and step.retires is None


def test_a_successor_stands_by_from_a_quarter_of_the_life_and_takes_over_at_half() -> None:
    assert at(NOW + 6 * HOUR - SECOND, authority()) == []
    (step,) = at(NOW + 6 * HOUR, authority())
    assert isinstance(step, Prepare) and step.kind is Kind.X509
    standby = replace(NEXT, not_before=NOW + 6 * HOUR, not_after=NOW + 30 * HOUR)
    assert at(NOW + 12 * HOUR - SECOND, authority(), standby, consumers=[agent(5)]) == []
    (step,) = at(NOW + 12 * HOUR, authority(), standby, consumers=[agent(5)])
    assert isinstance(step, Activate) and not step.forced
    # It is a quarter old when it takes over: the next one is prepared at that moment.
    (step,) = at(NOW + 12 * HOUR, *applied((authority(), standby), step, NOW + 12 * HOUR))
    assert isinstance(step, Prepare)
    assert next_due([authority(), JWT], [], POLICY, NOW + HOUR) == NOW + 6 * HOUR
    assert next_due([authority(), standby, JWT], [], POLICY, NOW + 7 * HOUR) == NOW + 12 * HOUR


def test_a_standby_takes_over_at_once_from_a_tainted_or_replaced_one() -> None:
    standby = replace(NEXT, not_before=NOW + 6 * HOUR)
    for changes in ({"replace": True}, {"tainted_at": NOW + 7 * HOUR}):
        (step,) = at(NOW + 7 * HOUR, authority(**changes), standby, consumers=[agent(5)])
        assert isinstance(step, Activate) and not step.forced


def test_successor_waits_for_every_live_consumer() -> None:
    now = NOW + 13 * HOUR
    states = (authority(), NEXT)
    assert at(now, *states, consumers=[agent(5), agent(4, "slow")]) == []
    assert at(now, *states, consumers=[agent(None, "new")]) == []
    (step,) = at(now, *states, consumers=[agent(5), agent(7, "ahead")])
    assert isinstance(step, Activate) and (step.authority, step.retires, step.forced) == ("a2", "a1", False)


def test_a_later_epoch_counts_as_acknowledged() -> None:
    restored = Consumer("peer", Level(2, 1))
    (step,) = at(NOW + 13 * HOUR, authority(), NEXT, consumers=[restored])
    assert isinstance(step, Activate) and not step.forced


def test_a_consumer_whose_svid_ended_does_not_block() -> None:
    now = NOW + 13 * HOUR
    dead = agent(1, live_until=now)
    assert at(now - SECOND, authority(), NEXT, consumers=[dead]) == []
    assert isinstance(at(now, authority(), NEXT, consumers=[dead])[0], Activate)
    assert next_due([authority(), NEXT, JWT], [dead], POLICY, now - SECOND) == now


def test_a_polled_publication_has_it_after_twice_the_hint() -> None:
    pushed = NOW + 13 * HOUR
    reader = Consumer("s3", Level(1, 5), polls_only=True, last_push_at=pushed)
    assert at(pushed + 10 * MINUTE - SECOND, authority(), NEXT, consumers=[reader]) == []
    assert isinstance(at(pushed + 10 * MINUTE, authority(), NEXT, consumers=[reader])[0], Activate)
    never = Consumer("s3", None, polls_only=True)
    stale = Consumer("s3", Level(1, 4), polls_only=True, last_push_at=NOW)
    for consumer in (never, stale):
        assert at(NOW + 20 * HOUR, authority(), NEXT, consumers=[consumer]) == []
    assert replace(POLICY, refresh_hint=5 * SECOND).poll_wait == 2 * MINUTE


def test_the_last_safe_moment_names_who_was_missing() -> None:
    safe = last_safe_moment(authority(), POLICY)
    assert safe == NOW + DAY - POLICY.leaf_ttl_max - POLICY.margin
    late = [agent(5), agent(4, "slow"), agent(None, "new")]
    assert at(safe - SECOND, authority(), NEXT, consumers=late) == []
    (step,) = at(safe, authority(), NEXT, consumers=late)
    assert isinstance(step, Activate) and step.forced and step.missing == ("new", "slow")


def test_an_authority_too_short_for_the_policy_still_waits_a_while() -> None:
    short = authority(not_after=NOW + HOUR)
    assert NOW + 30 * MINUTE < last_safe_moment(short, POLICY) < short.not_after


def test_nothing_is_activated_before_an_envelope_carries_it() -> None:
    unborn = replace(NEXT, first_level=None)
    assert at(NOW + 23 * HOUR + 59 * MINUTE, authority(), unborn) == []


def test_an_ended_authority_retires_and_its_successor_does_not_wait() -> None:
    steps = at(NOW + DAY, authority(), NEXT, consumers=[agent(1)])
    assert [type(step) for step in steps] == [Retire, Activate]
    assert isinstance(steps[1], Activate) and steps[1].forced


def test_a_retired_authority_leaves_after_its_last_leaf() -> None:
    end = NOW + 14 * HOUR
    old = authority("a0", Status.RETIRING, last_leaf_not_after=end)
    active = authority(not_after=NOW + 80 * HOUR)
    assert at(end, old, active) == []
    (step,) = at(end + POLICY.removal_margin, old, active)
    assert step == Remove("a0", "the last SVID it signed has ended")


def test_what_it_signed_is_unknown_then_it_stays_to_its_end() -> None:
    old = authority("a0", Status.RETIRING, not_after=NOW + 10 * HOUR)
    active = authority(not_after=NOW + 80 * HOUR)
    assert at(NOW + 10 * HOUR, old, active) == []
    assert isinstance(at(NOW + 10 * HOUR + POLICY.removal_margin, old, active)[0], Remove)


def test_forced_rotation_prepares_at_once_and_is_gated() -> None:
    asked = authority(replace=True)
    assert isinstance(at(NOW, asked)[0], Prepare)
    fresh = replace(NEXT, not_before=NOW)
    assert at(NOW, asked, fresh, consumers=[agent(4)]) == []
    (step,) = at(NOW, asked, fresh, consumers=[agent(5)])
    assert isinstance(step, Activate) and not step.forced


def test_a_prepared_authority_is_left_alone_until_it_is_wanted() -> None:
    assert at(NOW + HOUR, authority(), replace(NEXT, not_before=NOW), consumers=[agent(9)]) == []


def test_taint_runs_in_its_order() -> None:
    now = NOW + HOUR
    states: tuple[AuthorityState, ...] = (authority(tainted_at=now, last_leaf_not_after=now + HOUR), JWT)
    assert signer(states, Kind.X509, now) is None  # a tainted key signs nothing from the first moment
    (step,) = due(states, [agent(1)], POLICY, now)
    assert isinstance(step, Prepare)
    states += (replace(NEXT, not_before=now),)
    (step,) = due(states, [agent(1)], POLICY, now)  # 1: by override
    assert isinstance(step, Activate) and step.forced and step.missing == ("agent-1",)
    states = applied(states, step, now)
    assert due(states, [agent(4)], POLICY, now) == []
    (step,) = due(states, [agent(5)], POLICY, now)  # 2: its envelope is out, reissue
    assert isinstance(step, Reissue) and step.missing == ()
    (slow,) = due(states, [agent(4)], POLICY, now + POLICY.taint_ack_wait)  # or the wait is over
    assert isinstance(slow, Reissue) and slow.missing == ("agent-1",)
    states = applied(states, step, now)
    assert due(states, [agent(5)], POLICY, now + POLICY.reissue_window - SECOND) == []
    (step,) = due(states, [agent(5)], POLICY, now + POLICY.reissue_window)  # 3: the twin leaves
    assert isinstance(step, RemoveTainted) and step.authority == "a1"
    assert [a.id for a in bundled(applied(states, step, now), Kind.X509)] == ["a2"]


def test_a_stolen_key_is_removed_first() -> None:
    stolen = authority(tainted_at=NOW, remove_first=True)
    steps = at(NOW, stolen)
    assert [type(step) for step in steps] == [RemoveTainted, Prepare]
    after = (*applied((stolen, JWT), steps[0], NOW), replace(NEXT, not_before=NOW))
    (step,) = due(after, [agent(1)], POLICY, NOW)
    assert isinstance(step, Activate) and step.forced


def test_prepared_authorities_that_are_tainted_or_ended_go() -> None:
    (step,) = at(NOW + 6 * HOUR - SECOND, authority(), replace(NEXT, tainted_at=NOW))
    assert isinstance(step, Remove)
    ended = replace(NEXT, not_before=NOW, not_after=NOW + HOUR)
    (step,) = at(NOW + HOUR, authority(), ended)
    assert isinstance(step, Remove)


def test_a_second_active_authority_retires() -> None:
    newer = authority("a2", activated_at=NOW + SECOND)
    assert at(NOW + HOUR, authority(), newer) == [Retire("a1", "a newer authority is active")]
    found = signer([authority(), newer], Kind.X509, NOW + HOUR)
    assert found is not None and found.id == "a2"


def test_steps_that_do_not_fit_are_refused() -> None:
    removed = authority(status=Status.REMOVED)
    for state, step in (
        (authority(), Activate("a1", Kind.X509, None, False, (), "")),
        (authority(status=Status.RETIRING), Retire("a1", "")),
        (authority(), Reissue("a1", (), "")),
        (removed, Remove("a1", "")),
        (removed, Activate("a1", Kind.X509, None, False, (), "")),
    ):
        with pytest.raises(Conflict):
            applied([state], step, NOW)
    with pytest.raises(NotFound):
        applied([], Remove("a1", ""), NOW)


@pytest.mark.parametrize(
    "fields",
    [
        {"prepare_fraction": 0.0},
        {"prepare_fraction": 1.0},
        {"rollover_fraction": 0.25},
        {"rollover_fraction": 1.0},
        {"margin": -SECOND},
        {"ca_ttl": 2 * HOUR},
        {"leaf_ttl_max": 12 * HOUR},
    ],
)
def test_policy_refuses(fields: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        Policy(**fields)  # type: ignore[arg-type]


SHORT = Policy(ca_ttl=HOUR, leaf_ttl_max=10 * MINUTE, margin=5 * MINUTE, refresh_hint=MINUTE)
AGENTS = ("one", "two", "three")


@dataclass
class World:
    """A cluster in small: it carries out steps, signs when it may, and checks the promises at every move."""

    now: datetime = NOW
    states: tuple[AuthorityState, ...] = ()
    level: Level = field(default_factory=lambda: Level(1, 0))
    levels: dict[str, Level | None] = field(default_factory=lambda: dict.fromkeys(AGENTS))
    lives: dict[str, datetime] = field(default_factory=lambda: dict.fromkeys(AGENTS, NOW + 20 * MINUTE))
    pushed: tuple[Level, datetime] | None = None
    leaves: dict[str, datetime] = field(default_factory=dict)  # authority id -> end of the last leaf it signed

    @property
    def consumers(self) -> list[Consumer]:
        polled = Consumer("s3", None, polls_only=True)
        if self.pushed is not None:
            polled = Consumer("s3", self.pushed[0], polls_only=True, last_push_at=self.pushed[1])
        return [*(Consumer(name, self.levels[name], self.lives[name]) for name in AGENTS), polled]

    def envelope(self) -> None:
        self.level = Level(1, self.level.sequence + 1)
        self.states = tuple(replace(a, first_level=a.first_level or self.level) for a in self.states)

    def carry_out(self) -> None:
        for _ in range(12):
            steps = due(self.states, self.consumers, SHORT, self.now)
            if not steps:
                return
            for step in steps:
                self.check(step)
                if isinstance(step, Prepare):
                    name = f"{step.kind}-{len(self.states)}"
                    end = self.now + SHORT.ca_ttl
                    made = AuthorityState(name, step.kind, Status.PREPARED, name, self.now, end)
                    self.states += (made,)
                self.states = applied(self.states, step, self.now)
            self.envelope()
        raise AssertionError(f"steps never end: {steps}")

    def check(self, step: Step) -> None:
        by_id = {a.id: a for a in self.states}
        if isinstance(step, Activate):
            mine, own = by_id[step.authority], [a for a in self.states if a.kind is step.kind]
            acting = [a for a in own if a.status is Status.ACTIVE]
            first = all(a.activated_at is None for a in own)
            behind = {
                name
                for name in AGENTS
                if self.now < self.lives[name] and (self.levels[name] or Level(0, 0)) < (mine.first_level or self.level)
            }
            assert mine.first_level is not None
            if not step.forced and not first:
                assert not behind
                assert self.pushed is not None and self.pushed[0] >= mine.first_level
                assert self.now >= self.pushed[1] + SHORT.poll_wait
            if step.forced:
                assert behind <= set(step.missing)
                assert not acting or any(a.tainted_at or self.now >= last_safe_moment(a, SHORT) for a in acting), (
                    "overridden before the last safe moment"
                )
        if isinstance(step, Remove):
            mine = by_id[step.authority]
            assert self.leaves.get(mine.id, self.now) <= self.now
        if isinstance(step, Reissue | RemoveTainted):
            assert by_id[step.authority].tainted_at is not None

    def sign(self) -> None:
        for kind in SIGNING:
            active = signer(self.states, kind, self.now)
            if active is None:
                continue
            assert active.tainted_at is None and active.first_level is not None
            assert active in bundled(self.states, kind)
            end = min(self.now + SHORT.leaf_ttl_max, active.not_after)
            self.leaves[active.id] = end
            self.states = tuple(replace(a, last_leaf_not_after=end) if a.id == active.id else a for a in self.states)

    def do(self, action: str, value: int) -> None:
        name = AGENTS[value % len(AGENTS)]
        if action == "wait":
            self.now += value * SECOND
        elif action == "sleep_until_due":
            self.now = next_due(self.states, self.consumers, SHORT, self.now) or self.now
        elif action == "acknowledge":
            self.levels[name] = self.level
        elif action == "renew":
            self.lives[name] = self.now + 20 * MINUTE
        elif action == "push":
            self.pushed = (self.level, self.now)
        elif action == "sign":
            self.sign()
        elif action == "act":
            self.carry_out()
        elif action == "replace":
            self._mark(value, Status.ACTIVE, replace=True)
        else:
            self._mark(value, None, tainted_at=self.now, remove_first=action == "stolen")

    def _mark(self, value: int, status: Status | None, **fields: object) -> None:
        able = [a for a in self.states if a.status is not Status.REMOVED and status in (None, a.status)]
        if able:
            chosen = able[value % len(able)].id
            self.states = tuple(replace(a, **fields) if a.id == chosen else a for a in self.states)  # type: ignore[arg-type]


MOVES = (
    "wait wait sleep_until_due sleep_until_due acknowledge acknowledge renew push sign act act act replace taint stolen"
)
ACTIONS = st.lists(st.tuples(st.sampled_from(MOVES.split()), st.integers(min_value=0, max_value=900)), max_size=60)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_no_interleaving_breaks_a_promise(actions: list[tuple[str, int]]) -> None:
    world = World()
    for action, value in actions:
        world.do(action, value)
        for kind in SIGNING:
            assert sum(a.kind is kind and a.status is Status.ACTIVE for a in world.states) <= 1
    world.carry_out()
    assert all(signer(world.states, kind, world.now) for kind in SIGNING), "a cluster that acts can always sign"


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.floats(min_value=0, max_value=0.999))
def test_next_due_misses_nothing(actions: list[tuple[str, int]], part: float) -> None:
    """Between now and `next_due` the answer stays the same: a cluster may sleep."""
    world = World()
    for action, value in actions:
        world.do(action, value)
    asked = due(world.states, world.consumers, SHORT, world.now)
    wake = next_due(world.states, world.consumers, SHORT, world.now)
    later = world.now + (wake - world.now) * part if wake else world.now + 1000 * DAY
    assert _shape(due(world.states, world.consumers, SHORT, later)) == _shape(asked)


def _shape(steps: list[Step]) -> list[tuple[str, object]]:
    return [(type(step).__name__, getattr(step, "authority", None)) for step in steps]


def test_a_whole_life_without_anyone_missing_is_never_forced() -> None:
    world, forced = World(), []
    for _ in range(200):
        for step in due(world.states, world.consumers, SHORT, world.now):
            forced += [step] if isinstance(step, Activate) and step.forced else []
        world.carry_out()
        for number in range(len(AGENTS)):
            world.do("acknowledge", number)
            world.do("renew", number)
        if world.pushed is None or world.pushed[0] != world.level:
            world.do("push", 0)
        world.do("sign", 0)
        world.now = min(next_due(world.states, world.consumers, SHORT, world.now) or NOW, world.now + 5 * MINUTE)
    assert not forced
    assert len(world.states) > 10  # many lives went by
    assert waiting_for(world.states[-1], world.consumers, SHORT, world.now + DAY) == ()
