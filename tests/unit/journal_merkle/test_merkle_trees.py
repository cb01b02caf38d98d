"""Merkle trees: the published values of Certificate Transparency, and RFC 6962's own recursive definition for all others."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustfed.errors import Denied, Invalid
from trustfed.journal.merkle.hashing import EMPTY_ROOT, leaf_hash, node_hash, root_of
from trustfed.journal.merkle.proofs import (
    MAX_PROOF,
    HashReader,
    consistency,
    inclusion,
    subtree_roots,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from trustfed.journal.merkle.ranges import MAX_SIZE, CompactRange, levels_of

# The entries and roots that the implementations of RFC 6962 test each other with.
ENTRIES = [
    bytes.fromhex(entry)
    for entry in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

LEAVES = [hashlib.sha256(b"%d" % number).digest() for number in range(300)]


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word, over leaf hashes."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = largest_power_below(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 §2.1.1."""
    if len(leaves) == 1:
        return []
    k = largest_power_below(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962 §2.1.2."""
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = largest_power_below(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def largest_power_below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def reader(leaves: list[bytes]) -> HashReader:
    def read(level: int, index: int) -> bytes:
        part = leaves[index << level : index + 1 << level]
        assert len(part) == 1 << level, "only perfect subtrees are asked for"
        return naive_root(part)

    return read


def test_the_published_roots_of_eight_entries() -> None:
    leaves = [leaf_hash(entry) for entry in ENTRIES]
    growing = CompactRange()
    for size, root in enumerate(ROOTS):
        assert naive_root(leaves[:size]).hex() == root
        assert root_of(leaves[:size]).hex() == root
        assert tree_root(reader(leaves), size).hex() == root
        assert growing.root().hex() == root
        if size < len(leaves):
            growing.append(leaves[size])
    assert EMPTY_ROOT.hex() == ROOTS[0]


def test_the_published_proofs_of_eight_entries() -> None:
    read = reader([leaf_hash(entry) for entry in ENTRIES])
    assert [each.hex()[:8] for each in inclusion(read, 5, 8)] == ["bc1a0643", "ca854ea1", "d37ee418"]
    assert [each.hex()[:8] for each in inclusion(read, 0, 8)] == ["96a296d2", "5f083f0a", "6b47aaf2"]
    assert [each.hex()[:8] for each in consistency(read, 6, 8)] == ["0ebc5d34", "ca854ea1", "d37ee418"]
    assert [each.hex()[:8] for each in consistency(read, 2, 5)] == ["5f083f0a", "bc1a0643"]


def test_every_proof_of_every_tree_up_to_50_leaves_is_the_definitions_and_verifies() -> None:
    for size in range(1, 51):
        leaves = LEAVES[:size]
        read, root = reader(leaves), naive_root(leaves)
        for index in range(size):
            proof = inclusion(read, index, size)
            assert proof == naive_path(index, leaves)
            verify_inclusion(leaves[index], index, size, proof, root)
        for old in range(1, size + 1):
            proof = consistency(read, old, size)
            assert proof == naive_subproof(old, leaves, True)
            verify_consistency(old, naive_root(leaves[:old]), size, root, proof)
        assert consistency(read, 0, size) == []
        verify_consistency(0, EMPTY_ROOT, size, root, [])


sizes = st.integers(1, len(LEAVES))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=sizes)
def test_one_flipped_bit_anywhere_breaks_an_inclusion_proof(data: Any, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof, root = inclusion(reader(LEAVES), index, size), naive_root(LEAVES[:size])
    parts = [LEAVES[index], root, *proof]
    flipped = data.draw(st.integers(0, len(parts) - 1))
    parts[flipped] = flip(parts[flipped], data.draw(st.integers(0, 255)))
    with pytest.raises(Denied, match="does not lead to the root"):
        verify_inclusion(parts[0], index, size, parts[2:], parts[1])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=sizes)
def test_one_flipped_bit_anywhere_breaks_a_consistency_proof(data: Any, size: int) -> None:
    old = data.draw(st.integers(0, size))
    proof = consistency(reader(LEAVES), old, size)
    parts = [naive_root(LEAVES[:old]), naive_root(LEAVES[:size]), *proof]
    flipped = data.draw(st.integers(0 if old else 2, len(parts) - 1) if old or proof else st.just(0))
    parts[flipped] = flip(parts[flipped], data.draw(st.integers(0, 255)))
    with pytest.raises(Denied, match="are not of one log"):
        verify_consistency(old, parts[0], size, parts[1], parts[2:])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=sizes)
def test_a_proof_for_another_place_size_or_length_is_refused(data: Any, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof, root = inclusion(reader(LEAVES), index, size), naive_root(LEAVES[:size])
    other = data.draw(st.integers(0, size - 1).filter(lambda each: each != index)) if size > 1 else None
    for changed in ([*proof, root], proof[:-1] if proof else [root]):
        with pytest.raises((Denied, Invalid)):
            verify_inclusion(LEAVES[index], index, size, changed, root)
    if other is not None:
        with pytest.raises((Denied, Invalid)):
            verify_inclusion(LEAVES[index], other, size, proof, root)
    old = data.draw(st.integers(1, size))
    steps = consistency(reader(LEAVES), old, size)
    for changed in ([*steps, root], steps[:-1] if steps else [root]):
        with pytest.raises((Denied, Invalid)):
            verify_consistency(old, naive_root(LEAVES[:old]), size, root, changed)


def test_what_is_no_proof_is_refused_for_its_form() -> None:
    leaf, root = LEAVES[0], naive_root(LEAVES[:2])
    for index, size in ((2, 2), (-1, 2), (0, 0), (0, MAX_SIZE + 1), (True, 2)):
        with pytest.raises(Invalid):
            verify_inclusion(leaf, index, size, [LEAVES[1]], root)
    with pytest.raises(Invalid, match="a proof of 64 hashes"):
        verify_inclusion(leaf, 0, 2, [leaf] * (MAX_PROOF + 1), root)
    with pytest.raises(Invalid, match="not one of 32 bytes"):
        verify_inclusion(leaf, 0, 2, [leaf[:-1]], root)
    with pytest.raises(Invalid, match="cannot be the beginning"):
        verify_consistency(3, root, 2, root, [])
    with pytest.raises(Invalid, match="must be empty"):
        verify_consistency(0, EMPTY_ROOT, 2, root, [leaf])
    with pytest.raises(Invalid, match="is empty"):
        verify_consistency(3, root, 5, root, [])


def test_the_longest_proofs_are_within_the_bound() -> None:
    made: list[tuple[int, int]] = []

    def read(level: int, index: int) -> bytes:
        made.append((level, index))
        return bytes(32)

    assert len(inclusion(read, 0, MAX_SIZE)) == MAX_PROOF - 1
    assert len(consistency(read, MAX_SIZE // 2, MAX_SIZE)) == MAX_PROOF
    assert max(len(consistency(read, MAX_SIZE - (1 << bit), MAX_SIZE)) for bit in range(62)) <= MAX_PROOF
    assert len(made) < 63 * 63 * 70


@settings(max_examples=50, deadline=None)
@given(begin=st.integers(0, 300), more=st.integers(0, 300))
def test_whoever_holds_a_compact_range_goes_on_without_what_was_before(begin: int, more: int) -> None:
    begin, end = min(begin, 300), min(begin + more, 300)
    held = CompactRange(begin, subtree_roots(reader(LEAVES), begin))
    held.extend(LEAVES[begin:end])
    assert (held.size, held.root()) == (end, naive_root(LEAVES[:end]))
    assert held.subtrees == subtree_roots(reader(LEAVES), end)


def test_a_compact_range_of_the_wrong_shape_is_refused() -> None:
    for size, subtrees in (
        (1, []),
        (0, [(0, bytes(32))]),
        (3, [(0, bytes(32)), (1, bytes(32))]),
        (1, [(0, b"")]),
        (-1, []),
    ):
        with pytest.raises(Invalid):
            CompactRange(size, subtrees)
    assert levels_of(6) == [2, 1]


def test_a_leaf_is_no_node() -> None:
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != node_hash(left, right)


def flip(value: bytes, bit: int) -> bytes:
    return value[: bit // 8] + bytes([value[bit // 8] ^ 1 << bit % 8]) + value[bit // 8 + 1 :]
