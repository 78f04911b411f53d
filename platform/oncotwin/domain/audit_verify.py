"""Whether a chain is what it was: one pass over its entries, held against checkpoints kept here and elsewhere.

Rows come as they lie in a store, so anything may be wrong with them, their types included. The pass names the first
bad entry. Three things are compared, and which of them disagree says where the damage is: an entry's hash with the
entry's own content; the predecessor's hash that an entry names with the one that the predecessor has; the tree's root
at each checkpoint's size with the root that was signed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from oncotwin.domain.audit import GENESIS, AuditError, entry_json, is_chain
from oncotwin.domain.audit_drafts import CHECKPOINT
from oncotwin.domain.checkpoint import SIGNATURE_BYTES, Checkpoint, read_checkpoint
from oncotwin.domain.errors import EventError
from oncotwin.domain.merkle import Frontier, leaf_hash
from oncotwin.domain.strict_json import loads

StoredEntry = tuple[Any, Any, Any, Any, Any, Any, Any, Any]
"""A row as it lies there: institution, seq, kind, ref, microseconds, content, previous, hash."""

VerifySignature = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> whether it is that key's."""

Problem = Literal["changed", "missing", "misplaced", "rewritten", "cut off", "checkpoint", "contents"]


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is not as it was.

    Attributes:
        first: the first bad entry, from 1; for a bad checkpoint the size that it speaks of; 0 for what no entry tells
            of.
        last: the last entry that may be the bad one; equal to `first` where it is known.
    """

    institution: str
    first: int
    last: int
    problem: Problem
    message: str


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint as it lies somewhere.

    Attributes:
        held: where: "store", "registry", or a file's name.
        institution, size, key: the columns or names it is filed under; None where it has none.
    """

    held: str
    body: Any
    signature: Any
    institution: Any = None
    size: Any = None
    key: Any = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pass over one chain found.

    Attributes:
        n_entries: entries found in good order, from the first on. head: hash of the last of them.
        covered: size of the greatest checkpoint that agrees; 0 for none.
        flaws: the first bad entry, if any, then bad checkpoints.
    """

    institution: str
    n_entries: int
    head: bytes
    covered: int
    n_checkpoints: int
    flaws: tuple[Flaw, ...]


def check_checkpoints(
    stored: Iterable[StoredCheckpoint], trusted: Mapping[str, Collection[bytes]], verify: VerifySignature
) -> tuple[list[Checkpoint], list[Flaw]]:
    """Read checkpoints, and keep those that a trusted key of their institution signed.

    Args:
        trusted: public keys of each institution.
    Returns:
        (good ones by institution and size, one of each kind; flaws).
    """
    good: dict[tuple[str, int, bytes, bytes], Checkpoint] = {}
    flaws: list[Flaw] = []
    for one in stored:
        reason, found = _check_checkpoint(one, trusted, verify)
        if found is not None and not reason:
            good[found.institution, found.size, found.root, found.head] = found
            continue
        institution = found.institution if found is not None else one.institution
        size = found.size if found is not None else one.size
        name = institution if isinstance(institution, str) and is_chain(institution) else "?"
        number = size if type(size) is int else 0
        flaws.append(
            Flaw(
                name, number, number, "checkpoint",
                f"the checkpoint of {name} over {number} entries held in {one.held} is not to be believed: {reason}",
            )
        )
    return [good[key] for key in sorted(good)], flaws


def _check_checkpoint(
    one: StoredCheckpoint, trusted: Mapping[str, Collection[bytes]], verify: VerifySignature
) -> tuple[str, Checkpoint | None]:
    """(what is wrong, "" for nothing; the checkpoint where it can be read)."""
    if not isinstance(one.body, bytes):
        return "its body is no bytes", None
    try:
        found = read_checkpoint(one.body)
    except AuditError as error:
        return str(error), None
    filed = ((one.institution, found.institution), (one.size, found.size), (one.key, found.key))
    if any(outside is not None and outside != inside for outside, inside in filed):
        return "it is filed under another institution, size or key than it says itself", found
    if found.key not in trusted.get(found.institution, ()):
        return (
            f"its key {found.key.hex()} is none that is trusted for {found.institution}; if it should be, "
            "`oncotwin audit trust`", found,
        )
    if not isinstance(one.signature, bytes) or len(one.signature) != SIGNATURE_BYTES:
        return f"its signature is not {SIGNATURE_BYTES} bytes", found
    if not verify(found.key, one.body, one.signature):
        return "its signature is not that of its key", found
    return "", found


def verify_chain(
    institution: str, rows: Iterable[StoredEntry], checkpoints: Sequence[Checkpoint],
    kept: Collection[int] | None = None,
) -> Verdict:
    """Go through a chain once, in memory that does not grow with it.

    Args:
        rows: by seq.
        checkpoints: believed ones of this institution, see `check_checkpoints`.
        kept: sizes of the checkpoints that the chain's own store holds; each that the chain tells of must be there.
            None where that is not known.
    """
    walk = _Walk(institution, sorted(checkpoints, key=lambda one: one.size))
    flaw: Flaw | None = None
    missing: list[Flaw] = []
    for row in rows:
        flaw = walk.step(row)
        if flaw is not None:
            break
        told = walk.told
        if told is not None and kept is not None and told not in kept:
            missing.append(
                Flaw(
                    institution, told, told, "checkpoint",
                    f"entry {walk.frontier.size} of {institution} tells of a checkpoint over {told} entries that the "
                    "store does not hold any more",
                )
            )
    if flaw is None:
        flaw = walk.end()
    return Verdict(
        institution, walk.frontier.size, walk.head, walk.covered, len(checkpoints),
        ((flaw,) if flaw is not None else ()) + tuple(missing),
    )


class _Walk:
    """The state of one pass: the tree so far, its last hash, and the checkpoints still ahead."""

    def __init__(self, institution: str, checkpoints: list[Checkpoint]) -> None:
        self.institution = institution
        self.frontier = Frontier()
        self.head = GENESIS
        self.covered = 0
        self.told: int | None = None
        self._stray: int | None = None
        self._ahead = checkpoints
        self._next = checkpoints[0].size if checkpoints else 0

    def step(self, row: StoredEntry) -> Flaw | None:
        """Take the next row; what is wrong with it or before it, None where nothing is."""
        institution, seq, kind, ref, at_us, content, previous, own = row
        wanted = self.frontier.size + 1
        if type(seq) is not int:
            return self._flaw(wanted, "changed", f"entry {wanted} has no whole number for a place")
        if seq != wanted:
            if seq < 1:
                # Whatever it was, its own place is empty: that is found there, or at the end.
                self._stray = seq
                return None
            if seq < wanted:
                return self._flaw(seq, "misplaced", f"entry {seq} is there twice, or out of its place")
            return self._missing(wanted, seq - 1)
        if type(at_us) is not int:
            return self._flaw(seq, "changed", f"entry {seq} has no whole number of microseconds for its moment")
        try:
            found = leaf_hash(entry_json(institution, seq, kind, ref, at_us, content, previous))
        except (TypeError, ValueError, OverflowError, AttributeError):
            return self._flaw(seq, "changed", f"entry {seq} cannot be read: a column of it holds what none ever held")
        if found != own or institution != self.institution:
            return self._flaw(seq, "changed", f"entry {seq} was changed: its content does not have its hash")
        if previous != self.head:
            return self._broken_link(seq)
        self.told = None
        if kind == CHECKPOINT and (flaw := self._own_record(seq, content)) is not None:
            return flaw
        self.frontier.append(own)
        self.head = own
        return self._compare() if seq == self._next else None

    def end(self) -> Flaw | None:
        """Whether the chain reaches as far as the greatest checkpoint."""
        size = self.frontier.size
        if not self._ahead:
            if self._stray is None:
                return None
            what = f"entry {size + 1} is not in its place: an entry has the number {self._stray}"
            return self._flaw(size + 1, "misplaced", what)
        last = self._ahead[-1]
        return self._flaw(
            size + 1, "cut off",
            f"entries {size + 1} to {last.size} are missing: the chain ends after {size}, and the checkpoint of "
            f"{last.at:%Y-%m-%d %H:%M:%S} UTC is over {last.size}; its tail was cut off",
            last=last.size,
        )

    def _compare(self) -> Flaw | None:
        """Hold the tree against the checkpoints of its size."""
        size, root = self.frontier.size, self.frontier.root()
        while self._ahead and self._ahead[0].size == size:
            signed = self._ahead.pop(0)
            if (signed.root, signed.head) != (root, self.head):
                first = self.covered + 1
                where = f"entry {size}" if first == size else f"an entry from {first} to {size}"
                return self._flaw(
                    first, "rewritten",
                    f"{where} was rewritten, and all hashes after it: the chain has another root at {size} entries "
                    f"than the checkpoint of {signed.at:%Y-%m-%d %H:%M:%S} UTC", last=size,
                )
        self._next = self._ahead[0].size if self._ahead else 0
        self.covered = size
        return None

    def _broken_link(self, seq: int) -> Flaw:
        """An entry is whole in itself and names another predecessor's hash than its predecessor has."""
        if seq == 1:
            return self._flaw(1, "rewritten", "entry 1 names a predecessor: what stood before it was left out")
        if self.covered == seq - 1:
            # A checkpoint vouches for all that is before.
            return self._flaw(seq, "rewritten", f"entry {seq} was replaced: it does not follow from entry {seq - 1}")
        return self._flaw(
            seq - 1, "rewritten",
            f"entry {seq - 1} was replaced: entry {seq}, which is whole, names another hash for it",
        )

    def _own_record(self, seq: int, content: bytes) -> Flaw | None:
        """An entry that tells of a checkpoint must tell of the tree before it."""
        try:
            told = loads(content)
            size, root = told["size"], told["root"]
        except (EventError, KeyError, TypeError):
            return self._flaw(seq, "changed", f"entry {seq} tells of a checkpoint and cannot be read")
        if size != seq - 1 or root != self.frontier.root().hex():
            return self._flaw(
                self.covered + 1, "rewritten",
                f"an entry from {self.covered + 1} to {seq} was rewritten: entry {seq} tells of a checkpoint with "
                f"another root than the {seq - 1} entries before it have", last=seq,
            )
        self.told = int(size)
        return None

    def _missing(self, first: int, last: int) -> Flaw:
        what = f"entry {first} is" if first == last else f"entries {first} to {last} are"
        return self._flaw(first, "missing", f"{what} missing", last=last)

    def _flaw(self, first: int, problem: Problem, message: str, last: int | None = None) -> Flaw:
        return Flaw(
            self.institution, first, first if last is None else last, problem, f"{self.institution}: {message}"
        )
