"""Metrics: the text that we write is what Prometheus' own parser reads."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trustfed.runtime.metrics import MAX_SERIES, Registry


def read(registry: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(registry.exposition().decode())
        for sample in family.samples
    }


def test_counter_and_gauge() -> None:
    registry = Registry()
    issued = registry.counter("svids_issued_total", 'SVIDs "signed"\nhere\\', labels=("kind",))
    issued.add(kind="x509")
    issued.add(2.5, kind='j"w\\t\n')
    streams = registry.gauge("streams", "open streams")
    streams.set(3)
    streams.add(-1)
    registry.gauge("asked", "read when asked").read(lambda: 7.5)
    found = read(registry)
    assert found["trustfed_svids_issued_total", (("kind", "x509"),)] == 1
    assert found["trustfed_svids_issued_total", (("kind", 'j"w\\t\n'),)] == 2.5
    assert found["trustfed_streams", ()] == 2 and found["trustfed_asked", ()] == 7.5
    assert found["process_resident_memory_bytes", ()] > 1e6 and found["process_start_time_seconds", ()] > 1e9


def test_what_is_empty_and_what_is_infinite() -> None:
    registry = Registry()
    registry.counter("a_total", "a")
    registry.counter("b_total", "b", labels=("x",))
    gauge = registry.gauge("g", "g", labels=("x",))
    for name, value in (("nan", float("nan")), ("inf", float("inf")), ("low", float("-inf")), ("big", 1e300)):
        gauge.set(value, x=name)
    found = read(registry)
    assert found["trustfed_a_total", ()] == 0
    assert found["trustfed_g", (("x", "inf"),)] == float("inf") and found["trustfed_g", (("x", "big"),)] == 1e300
    gauge.remove(x="big")
    assert ("trustfed_g", (("x", "big"),)) not in read(registry)


def test_labels_from_outside_are_bounded() -> None:
    registry = Registry()
    counter = registry.counter("c_total", "c", labels=("who",))
    for index in range(MAX_SERIES + 500):
        counter.add(who=f"{index}" * 100)
    found = read(registry)
    assert found["trustfed_c_total", (("who", "other"),)] == 500
    assert len(registry.exposition()) < MAX_SERIES * 300


def test_misuse() -> None:
    registry = Registry()
    counter = registry.counter("c_total", "c", labels=("a",))
    for use in (
        lambda: registry.counter("c", "no _total"),
        lambda: registry.counter("c_total", "again"),
        lambda: registry.gauge("Bad-Name", ""),
        lambda: registry.gauge("g", "", labels=("a b",)),
        lambda: counter.add(-1, a="x"),
        counter.add,
        lambda: registry.gauge("l", "", labels=("a",)).read(lambda: 1),
    ):
        with pytest.raises(ValueError):
            use()
    with pytest.raises(KeyError):
        counter.add(b="x")


def test_a_gauge_that_counts_while_it_is_read() -> None:
    registry = Registry()
    counter = registry.counter("c_total", "c")

    def ask() -> float:
        counter.add()
        return 1

    registry.gauge("g", "g").read(ask)
    registry.exposition()
    assert read(registry)["trustfed_g", ()] == 1
