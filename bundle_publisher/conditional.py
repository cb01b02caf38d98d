"""How one document gets to one target, so that nothing goes backwards: read, compare, write only over what was read.

 1. read what is there; the same bytes are there already: done (a push that was cut short after it arrived ends here)
 2. the newer document must continue the one that is there (`check_continues`)
 3. write over exactly what was read; somebody else was quicker: from 1 again, a few times

So a push may be repeated at any moment, and of two publishers at once the one that knows more has the last word.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeAlias

from bundle_publisher.documents import check_continues
from bundle_publisher.targets.port import Document, Target
from trustfed.errors import Conflict

Make: TypeAlias = Callable[[], Document]
"""Makes the newest version of a document; called in a thread when it is about to be written."""

CONFLICTS = 4


async def put(target: Target, make: Make) -> None:
    """Let `target` hold what `make` gives. Denied when that would go back, Conflict when it changes all the time."""
    document = await asyncio.to_thread(make)
    for _ in range(CONFLICTS):
        held = await target.read(document.name)  # 1
        if held is not None and held.data == document.data:
            return
        if held is not None:
            await asyncio.to_thread(check_continues, document, held.data)  # 2
        with contextlib.suppress(Conflict):
            await target.write(document, held.tag if held else None)  # 3
            return
    raise Conflict(f"{document.name} changes faster than it can be written", hint="who else writes there?")


async def drop(target: Target, name: str) -> None:
    """Let `target` hold nothing under `name`. Conflict when it changes all the time."""
    for _ in range(CONFLICTS):
        held = await target.read(name)
        if held is None:
            return
        with contextlib.suppress(Conflict):
            await target.remove(name, held.tag)
            return
    raise Conflict(f"{name} changes faster than it can be removed", hint="who else writes there?")
