"""`python -m trustfed.reading`: one order from standard input, one answer to standard output, and it is gone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence

from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.reading.order import MAX_ORDER, Answer, Order, read_order, write_answer, write_error
from trustfed.runtime import logs
from trustfed.runtime.process import harden

# The signing library under python-tuf loads the SDK of every key store that is installed. Nothing is signed with one here,
# and a reader that must be quick would spend half of its time on them.
_NOT_NEEDED = ("boto3", "hvac", "azure", "google.cloud", "google.auth", "PyKCS11", "sigstore")


def main(arguments: Sequence[str] = ()) -> int:
    """Answer one order. The exit code is 0 whenever an answer, be it an error, was written.

    What is needed is loaded before the order is awaited, so that whoever started this early does not wait for it.
    """
    harden()
    sys.modules.update(dict.fromkeys(_NOT_NEEDED))  # type: ignore[arg-type]  # None makes an import fail
    try:
        visit = _load(aws="aws" in arguments)
        answer = write_answer(visit(read_order(sys.stdin.buffer.read(MAX_ORDER + 1))))
    except TrustfedError as error:
        answer = write_error(error)
    except ImportError as error:
        answer = write_error(
            Invalid(f"this installation cannot read stores: {error.name} is missing", hint="install trustfed[edge]")
        )
    except Exception as error:
        logs.get("reading").exception("the reader failed", error)
        answer = write_error(Unavailable(f"the reader failed: {type(error).__name__}", hint="the log says where"))
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
    return 0


def _load(*, aws: bool) -> Callable[[Order], Answer]:
    from trustfed.reading.reader import read  # noqa: PLC0415
    from trustfed.reading.sources.open import open_source  # noqa: PLC0415

    if not aws:
        return lambda order: read(order, open_source(order.location, None, order.limits))
    from trustfed.reading.credentials import find  # noqa: PLC0415
    from trustfed.reading.sign_identity import signed_headers  # noqa: PLC0415

    def visit(order: Order) -> Answer:
        location = order.location
        credentials = find(location.aws, location.ca_file, order.limits.seconds)
        answer = read(order, open_source(location, credentials, order.limits))
        if order.sign is None:
            return answer
        payload = signed_headers(order.sign, credentials, location.aws.sts_endpoint, os.urandom(16))
        return dataclasses.replace(answer, identity=payload)

    return visit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
