"""An S3 bucket as a target: conditional writes over ETags, in threads of its own, made for a CDN in front of it.

The SDK (botocore, the core of boto3) blocks and is large: it is loaded in those threads when the first document goes out,
so a store that hangs holds up nothing but itself, and a hub without an S3 target never loads it. In a versioned bucket
every write is a new version and a removal a delete marker; readers and conditions see the newest.
Trust: whoever can write to the bucket decides what plain readers see (trustfed.reading verifies the protected form).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from bundle_publisher.targets.conditions import Conditions
from bundle_publisher.targets.port import Document, Stored, check_document, check_name
from bundle_publisher.targets.s3_access import S3Access
from bundle_publisher.targets.threads import Threads
from trustfed.errors import Conflict, Denied, Unavailable

if TYPE_CHECKING:
    from bundle_publisher.targets.s3_bucket import Bucket

AT_ONCE = 8
_Result = TypeVar("_Result")


class S3Target:
    """Documents as objects below a prefix."""

    def __init__(self, access: S3Access) -> None:
        """Connects to nothing and loads no SDK yet."""
        self._access = access
        self._bucket: Bucket | None = None
        self._opening = threading.Lock()
        self._threads = Threads(AT_ONCE, f"s3 {access.bucket}")
        self._conditions = Conditions(str(access))

    async def read(self, name: str) -> Stored | None:
        """See Target."""
        check_name(name)
        return await self._do(lambda bucket: bucket.get(name))

    async def write(self, document: Document, if_tag: str | None) -> str:
        """See Target."""
        check_document(document)
        await self._conditions.prove(document, self._put)
        return await self._put(document, if_tag)

    async def remove(self, name: str, if_tag: str) -> None:
        """See Target."""
        check_name(name)
        try:
            await self._do(lambda bucket: bucket.delete(name, if_tag))
        except Conflict:
            if await self._do(lambda bucket: bucket.get(name)) is not None:
                raise

    async def _put(self, document: Document, if_tag: str | None) -> str:
        return await self._do(lambda bucket: bucket.put(document, if_tag))

    async def _do(self, work: Callable[[Bucket], _Result]) -> _Result:
        """Run `work` in a thread; who waits no longer than the limit is not kept by one that hangs."""
        limit = self._access.seconds
        try:
            async with asyncio.timeout(2 * limit):  # the SDK's own limits come first, unless bytes drip
                return await self._threads.run(lambda: work(self._opened()))
        except Denied:
            self._bucket = None  # the next call reads the files of the credentials again: they may have been replaced
            raise
        except TimeoutError:
            raise Unavailable(
                f"{self._access} has not answered within {2 * limit:g} s", hint="is the store slow, or far away?"
            ) from None

    def _opened(self) -> Bucket:
        with self._opening:
            opened = self._bucket
            if opened is None:
                from bundle_publisher.targets.s3_bucket import Bucket  # noqa: PLC0415 - here, so that only S3 loads it

                opened = self._bucket = Bucket(self._access)
            return opened
