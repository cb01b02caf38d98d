"""Inclusion and consistency proofs: made from any source of subtree roots, verified from nothing but themselves.

Made as RFC 6962 §2.1.1 and §2.1.2 define them; verified by the algorithms of RFC 9162 §2.1.3.2 and §2.1.4.2, which share
no code with the making. Leaves are numbered from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from trustfed.errors import Denied, Invalid
from trustfed.journal.merkle.hashing import EMPTY_ROOT, HASH_BYTES, node_hash
from trustfed.journal.merkle.ranges import Subtree, check_size, folded, levels_of

MAX_PROOF = 63
"""Hashes in the longest proof of any tree."""

HashReader: TypeAlias = Callable[[int, int], bytes]
"""Gives the root of a perfect subtree: (level, index) is over the leaves index * 2^level to (index + 1) * 2^level."""


def tree_root(read: HashReader, size: int) -> bytes:
    """The root of the first `size` leaves."""
    return folded([root for _, root in subtree_roots(read, size)])


def subtree_roots(read: HashReader, size: int) -> list[Subtree]:
    """(level, root) of the compact range [0, size), from left to right."""
    return [(level, read(level, (size >> level) - 1)) for level in levels_of(size)]


def inclusion(read: HashReader, index: int, size: int) -> list[bytes]:
    """The proof that leaf `index` is in the tree of the first `size`: RFC 6962 §2.1.1."""
    check_size(size)
    if type(index) is not int or not 0 <= index < size:
        raise Invalid(f"leaf {index} is not in a tree of {size}", hint="leaves are numbered from 0")
    begin, end, path = 0, size, []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin = middle
    return [_range_root(read, *each) for each in reversed(path)]


def consistency(read: HashReader, old: int, new: int) -> list[bytes]:
    """The proof that the first `old` of `new` leaves are the tree that had `old`: RFC 6962 §2.1.2; empty for 0 and `new`."""
    _check_order(old, new)
    if old in (0, new):
        return []
    begin, end, whole, path = 0, new, True, []
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin, whole = middle, False
    if not whole:
        path.append((begin, end))
    return [_range_root(read, *each) for each in reversed(path)]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf with this hash is at `index` of the tree of `size` leaves with this root.

    Raises Invalid (numbers, or a proof that is none of this length) or Denied (it leads to another root).
    """
    check_size(size)
    if type(index) is not int or not 0 <= index < size:
        raise Invalid(f"leaf {index} is not in a tree of {size}", hint="leaves are numbered from 0")
    _check_hashes([leaf, root, *_bounded(proof)])
    place, last, reached = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise Invalid(f"the proof for leaf {index} of {size} is too long: {len(proof)} hashes")
        if place & 1 or place == last:
            reached = node_hash(step, reached)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            reached = node_hash(reached, step)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise Invalid(f"the proof for leaf {index} of {size} is too short: {len(proof)} hashes")
    if reached != root:
        raise Denied(f"the inclusion proof of leaf {index} does not lead to the root of the tree of {size}")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `old` leaves with `old_root` is the beginning of that of `new` leaves with `new_root`.

    Raises Invalid (numbers, or a proof that is none of this length) or Denied (they are not one log).
    """
    _check_order(old, new)
    _check_hashes([old_root, new_root, *_bounded(proof)])
    differ = Denied(f"the trees of {old} and of {new} leaves are not of one log: their roots do not fit together")
    if old in (0, new):
        if proof:
            raise Invalid(f"a consistency proof from {old} to {new} must be empty; this has {len(proof)} hashes")
        if old_root != (EMPTY_ROOT if old == 0 else new_root):
            raise differ
        return
    # A tree of 2^n leaves is itself the first subtree on the way, so the proof leaves it out.
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise Invalid(f"the consistency proof from {old} to {new} is empty")
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = path[0]
    for step in path[1:]:
        if last == 0:
            raise Invalid(f"the consistency proof from {old} to {new} is too long: {len(proof)} hashes")
        if place & 1 or place == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, step)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise Invalid(f"the consistency proof from {old} to {new} is too short: {len(proof)} hashes")
    if before != old_root or after != new_root:
        raise differ


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _range_root(read: HashReader, begin: int, end: int) -> bytes:
    """The root of the leaves [begin, end), where `begin` is a multiple of the power of two that is not below their number."""
    roots = []
    for level in levels_of(end - begin):
        roots.append(read(level, begin >> level))
        begin += 1 << level
    return folded(roots)


def _check_order(old: int, new: int) -> None:
    check_size(old)
    check_size(new)
    if old > new:
        raise Invalid(f"a tree of {old} leaves cannot be the beginning of one of {new}")


def _bounded(proof: Sequence[bytes]) -> Sequence[bytes]:
    if len(proof) > MAX_PROOF:
        raise Invalid(f"a proof of {len(proof)} hashes", hint=f"at most {MAX_PROOF}")
    return proof


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for each in hashes:
        if type(each) is not bytes or len(each) != HASH_BYTES:
            raise Invalid("a hash of a proof is not one of 32 bytes")
