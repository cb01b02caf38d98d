"""How the story is told: one line for each step when it is over, and on a terminal what it is doing until then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from trustfed.demo.processes import Ended
from trustfed.errors import TrustfedError, Unavailable

Found = TypeVar("Found")
PAUSE = 0.005  # seconds between looks: figures in milliseconds need short ones


class Screen:
    """Standard output; counts what held and what did not."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        self.steps = self.failed = 0
        self.began = time.monotonic()

    def title(self, text: str) -> None:
        """A line by itself."""
        self._clear()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def doing(self, text: str) -> None:
        """What is under way: on a terminal only, gone when the next line comes."""
        if self._terminal:
            sys.stdout.write(f"\r\x1b[K  … {text}"[:200])
            sys.stdout.flush()

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """A step of the story. An error in it is printed as its failure, and the story goes on."""
        self.steps += 1
        step = Step(self, f"{self.steps} {name}")
        self.doing(step.name)
        try:
            yield step
        except TrustfedError as error:
            step.held = False
            step.say(f"{error.message}" + (f" ({error.hint})" if error.hint else ""))
        self._clear()
        mark = self._painted("✓", "32") if step.held else self._painted("✗", "31")
        sys.stdout.write(f"{mark} {step.name}\n" + "".join(f"    {line}\n" for line in step.lines))
        sys.stdout.flush()
        if not step.held:
            self.failed += 1

    def _clear(self) -> None:
        if self._terminal:
            sys.stdout.write("\r\x1b[K")

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


class Step:
    """One step: what it says below its name, and whether it held."""

    def __init__(self, screen: Screen, name: str) -> None:
        self._screen, self.name = screen, name
        self.lines: list[str] = []
        self.held = True

    def say(self, text: str) -> None:
        """A line below the step."""
        self.lines.append(text)

    def require(self, held: bool, text: str) -> None:
        """Something that must be so; it is said when it is not."""
        if not held:
            self.held = False
            self.say(f"did not hold: {text}")

    def wait(self, what: str, look: Callable[[], Found | None], seconds: float = 20.0, pause: float = PAUSE) -> Found:
        """What `look` finds, as soon as it is there. Raises Unavailable after `seconds`, with the last error seen."""
        end, reason = time.monotonic() + seconds, ""
        self._screen.doing(f"{self.name}: {what}")
        while True:
            try:
                found = look()
            except Ended:
                raise
            except Unavailable as error:  # a process that is still starting, or was killed and comes back
                found, reason = None, f": {error.message}"
            if found is not None and found is not False:
                return found
            if time.monotonic() > end:
                raise Unavailable(f"waited {seconds:.0f} s in vain: {what}{reason}")
            time.sleep(pause)


def milliseconds(began: float) -> str:
    """The time since `began` (time.time()), for people."""
    return f"{(time.time() - began) * 1000:.0f} ms"
