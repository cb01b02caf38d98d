"""Counters and gauges of one process, in the Prometheus text format (version 0.0.4).

    registry = metrics.Registry()
    issued = registry.counter("svids_issued_total", "SVIDs signed", labels=("kind",))
    issued.add(1, kind="x509")

The format is small and importing prometheus_client costs 5 MB resident, a ninth of what an agent may have; its parser
reads ours in the tests. Every registry is bounded: label values that come from outside cannot fill the memory.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 1_000
"""Label combinations of one metric; later ones are counted together under the label value "other"."""
PREFIX = "trustfed_"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}", re.ASCII)
_Labels = tuple[str, ...]
_Lock = contextlib.AbstractContextManager[bool]


class _Metric:
    kind = ""

    def __init__(self, name: str, help: str, labels: Sequence[str], lock: _Lock, limit: int = MAX_SERIES) -> None:
        self._limit = limit
        self._name, self._help, self._label_names, self._lock = PREFIX + name, help, tuple(labels), lock
        self._series: dict[_Labels, float] = {} if labels else {(): 0.0}

    def _place(self, labels: dict[str, str]) -> _Labels:
        if len(labels) != len(self._label_names):
            raise ValueError(f"{self._name} has the labels {self._label_names}, not {tuple(labels)}")
        place = tuple(labels[name] for name in self._label_names)
        if place not in self._series and len(self._series) >= self._limit:
            return ("other",) * len(place)
        return place

    def _raise_by(self, amount: float, labels: dict[str, str]) -> None:
        with self._lock:
            place = self._place(labels)
            self._series[place] = self._series.get(place, 0.0) + amount

    def lines(self) -> Iterator[str]:
        """The lines of the exposition."""
        yield f"# HELP {self._name} {_escape(self._help, quote=False)}"
        yield f"# TYPE {self._name} {self.kind}"
        for place, value in self._series.items():
            yield f"{self._name}{_labels(self._label_names, place)} {_number(value)}"


class Counter(_Metric):
    """A number that only rises."""

    kind = "counter"

    def add(self, amount: float = 1, **labels: str) -> None:
        """Raise it by `amount` (>= 0) for these labels."""
        if amount < 0:
            raise ValueError(f"{self._name} only rises")
        self._raise_by(amount, labels)


class Gauge(_Metric):
    """A number that rises and falls."""

    kind = "gauge"
    _function: Callable[[], float] | None = None

    def set(self, value: float, **labels: str) -> None:
        """What it is now for these labels."""
        with self._lock:
            self._series[self._place(labels)] = value

    def add(self, amount: float, **labels: str) -> None:
        """Raise or lower it."""
        self._raise_by(amount, labels)

    def read(self, function: Callable[[], float]) -> None:
        """Ask `function` at each exposition (a gauge without labels only)."""
        if self._label_names:
            raise ValueError(f"{self._name} has labels")
        self._function = function

    def remove(self, **labels: str) -> None:
        """Forget these labels: what they named is gone."""
        with self._lock:
            self._series.pop(tuple(labels[name] for name in self._label_names), None)

    def lines(self) -> Iterator[str]:
        """The lines of the exposition."""
        if self._function:
            self._series[()] = self._function()
        return super().lines()


_M = TypeVar("_M", bound=_Metric)


class Registry:
    """All metrics of one process; no global one exists. Names get the prefix trustfed_. Safe to use from threads."""

    def __init__(self) -> None:
        self._metrics: dict[str, _Metric] = {}
        # Reentrant: a gauge that is read at exposition may touch another metric.
        self._lock = threading.RLock()
        self._started = time.time()

    def counter(self, name: str, help: str, labels: Sequence[str] = (), *, limit: int = MAX_SERIES) -> Counter:
        """A new counter of at most `limit` label combinations; its name ends in _total. ValueError for a bad or used name."""
        if not name.endswith("_total"):
            raise ValueError(f"counter {name} must end in _total")
        return self._add(name, Counter(name, help, labels, self._lock, limit), labels)

    def gauge(self, name: str, help: str, labels: Sequence[str] = (), *, limit: int = MAX_SERIES) -> Gauge:
        """A new gauge of at most `limit` label combinations. ValueError for a bad or used name."""
        return self._add(name, Gauge(name, help, labels, self._lock, limit), labels)

    def exposition(self) -> bytes:
        """What GET /metrics answers, with CONTENT_TYPE; memory, processor time and start of the process included."""
        with self._lock:
            lines = [line for metric in self._metrics.values() for line in metric.lines()]
        lines += self._process()
        return ("\n".join(lines) + "\n").encode("utf-8")

    def _add(self, name: str, metric: _M, labels: Sequence[str]) -> _M:
        for part in (name, *labels):
            if not _NAME.fullmatch(part):
                raise ValueError(f"{part!r} cannot name a metric or label")
        if name in self._metrics:
            raise ValueError(f"metric {name} exists")
        self._metrics[name] = metric
        return metric

    def _process(self) -> Iterator[str]:
        """The usual names, so that usual dashboards find them."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        for name, kind, value in (
            ("process_resident_memory_bytes", "gauge", float(pages * os.sysconf("SC_PAGE_SIZE"))),
            ("process_cpu_seconds_total", "counter", usage.ru_utime + usage.ru_stime),
            ("process_start_time_seconds", "gauge", self._started),
        ):
            yield f"# TYPE {name} {kind}"
            yield f"{name} {_number(value)}"


def _labels(names: _Labels, values: _Labels) -> str:
    pairs = ",".join(f'{name}="{_escape(value[:200])}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escape(text: str, *, quote: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", " ")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
