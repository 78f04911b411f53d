"""Whatever is done to a chain is found, and the first bad entry is named: every bit, every drop, swap and cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from tests.unit.domain.audit_chains import NORTH, START, chain, held, judge, signed

from oncotwin.domain.audit import AuditEntry, Head, extend
from oncotwin.domain.audit_drafts import read
from oncotwin.domain.audit_verify import Flaw, StoredEntry
from oncotwin.domain.merkle import leaf_hash

N = 13
ENTRIES = chain(N)
ROWS: list[StoredEntry] = list(ENTRIES)
COLUMNS = ("institution", "seq", "kind", "ref", "at", "content", "previous", "hash")
LAST = held(signed(ENTRIES, N))


def flipped(value: object) -> Iterator[object]:
    """A value with each of its bits flipped, one at a time; text that is none any more comes as its bytes."""
    if isinstance(value, int):
        yield from (_signed(value ^ (1 << bit)) for bit in range(64))
        return
    raw = value.encode() if isinstance(value, str) else value
    assert isinstance(raw, bytes)
    for bit in range(8 * len(raw)):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        if isinstance(value, bytes):
            yield bytes(damaged)
            continue
        try:
            yield damaged.decode()
        except UnicodeDecodeError:
            yield bytes(damaged)


def _signed(number: int) -> int:
    """As a column of eight bytes holds it."""
    return number - 2**64 if number >= 2**63 else number


def in_order(rows: list[StoredEntry]) -> list[StoredEntry]:
    """As a store would give them."""
    return sorted(rows, key=lambda row: row[1])


def first(rows: list[StoredEntry]) -> Flaw:
    """The first flaw found, without any checkpoint."""
    verdict = judge(rows)
    assert verdict.flaws, "not detected"
    return verdict.flaws[0]


@pytest.mark.parametrize("seq", range(1, N + 1))
def test_every_bit_of_every_entry(seq: int) -> None:
    n = 0
    for column, name in enumerate(COLUMNS):
        for value in flipped(ROWS[seq - 1][column]):
            rows = list(ROWS)
            rows[seq - 1] = (*ROWS[seq - 1][:column], value, *ROWS[seq - 1][column + 1 :])
            verdict = judge(in_order(rows), LAST)
            assert verdict.flaws, f"{name}: {value!r} was not detected"
            # A number that another entry has too is found at the smaller of the two: neither can be in its place.
            expected = min(seq, value) if name == "seq" and isinstance(value, int) and 1 <= value <= N else seq
            assert verdict.flaws[0].first == expected, f"{name}: {value!r}: {verdict.flaws[0].message}"
            n += 1
    assert n > 8 * (2 * 32 + 2 * 8 + len(ENTRIES[seq - 1].content))


def test_every_bit_of_a_checkpoint() -> None:
    assert LAST.size == N
    n = 0
    for field in ("body", "signature", "institution", "size", "key"):
        for value in flipped(getattr(LAST, field)):
            damaged: dict[str, Any] = {field: value}
            flaws = judge(ROWS, replace(LAST, **damaged)).flaws
            assert [flaw.problem for flaw in flaws] == ["checkpoint"], f"{field}: {value!r}"
            n += 1
    assert n == 8 * (64 + 32 + 8 + len(NORTH) + len(LAST.body))


@pytest.mark.parametrize("seq", range(1, N))
def test_an_entry_is_dropped(seq: int) -> None:
    flaw = first(ROWS[: seq - 1] + ROWS[seq:])
    assert (flaw.problem, flaw.first, flaw.last) == ("missing", seq, seq)


@pytest.mark.parametrize("seq", range(1, N))
def test_an_entry_is_dropped_and_those_after_it_are_renumbered(seq: int) -> None:
    later = [(row[0], row[1] - 1, *row[2:]) for row in ROWS[seq:]]
    flaw = first(ROWS[: seq - 1] + later)
    assert (flaw.problem, flaw.first, flaw.last) == ("changed", seq, seq)


@pytest.mark.parametrize(("one", "other"), list(combinations(range(1, N + 1), 2)))
def test_two_entries_are_swapped(one: int, other: int) -> None:
    """Their contents change places, or all of them but their numbers."""
    for kept in (2, 0):
        rows = list(ROWS)
        a, b = ROWS[one - 1], ROWS[other - 1]
        rows[one - 1] = (*a[:2], *b[2:6], *a[6:]) if kept == 2 else (*a[:2], *b[2:])
        rows[other - 1] = (*b[:2], *a[2:6], *b[6:]) if kept == 2 else (*b[:2], *a[2:])
        assert first(rows).first == one


@pytest.mark.parametrize("left", range(N))
def test_the_tail_is_cut_off(left: int) -> None:
    assert judge(ROWS[:left]).flaws == ()
    (flaw,) = judge(ROWS[:left], LAST).flaws
    assert (flaw.problem, flaw.first, flaw.last) == ("cut off", left + 1, N)


@pytest.mark.parametrize("left", range(N))
def test_the_tail_is_cut_off_and_grown_anew(left: int) -> None:
    """A chain that is whole in itself and another than was signed: where it parted lies after the last agreement."""
    entries = ENTRIES[:left]
    for i in range(N):
        head = Head(len(entries), entries[-1].hash) if entries else Head()
        entries = entries + extend(NORTH, head, [read(NORTH, "nobody", f"{i}", "00")], START)
    rows = list(entries)
    assert judge(rows).flaws == ()
    for size in range(1, N):
        (flaw,) = judge(rows, held(signed(ENTRIES, size)), LAST).flaws
        assert flaw.problem == "rewritten"
        assert flaw.first <= left + 1 <= flaw.last
        assert (flaw.first, flaw.last) == ((size + 1, N) if size <= left else (1, size))


def rewritten(seq: int) -> AuditEntry:
    """An entry with other content and the hash that belongs to it."""
    changed = ENTRIES[seq - 1]._replace(ref="another")
    return changed._replace(hash=leaf_hash(changed.to_json()))


@pytest.mark.parametrize("seq", range(1, N))
def test_an_entry_is_rewritten_with_its_hash(seq: int) -> None:
    rows = list(ROWS)
    rows[seq - 1] = rewritten(seq)
    flaw = first(rows)
    assert (flaw.problem, flaw.first, flaw.last) == ("rewritten", seq, seq)


@pytest.mark.parametrize("seq", range(1, N + 1))
def test_an_entry_is_rewritten_and_all_hashes_after_it(seq: int) -> None:
    entries = [*ENTRIES[: seq - 1], rewritten(seq)]
    for entry in ENTRIES[seq:]:
        fresh = entry._replace(previous=entries[-1].hash)
        entries.append(fresh._replace(hash=leaf_hash(fresh.to_json())))
    rows = list(entries)
    assert judge(rows).flaws == ()
    checkpoints = [held(signed(ENTRIES, size)) for size in range(1, N + 1)]
    (flaw,) = judge(rows, *checkpoints).flaws
    assert (flaw.problem, flaw.first, flaw.last) == ("rewritten", seq, seq)


def test_what_stood_before_the_first_entry_is_left_out() -> None:
    entry = ENTRIES[4]._replace(seq=1)
    flaw = first([entry._replace(hash=leaf_hash(entry.to_json()))])
    assert (flaw.problem, flaw.first) == ("rewritten", 1)
    assert "left out" in flaw.message
