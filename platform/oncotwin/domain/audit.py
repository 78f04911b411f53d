"""The audit trail: what happened, in one hash chain for each institution.

An entry names its predecessor's hash, so nothing before it can change unseen; its own hash is that of a leaf of the
institution's Merkle tree (`merkle`), so one hash serves the chain, the checkpoints and the proofs. An entry says that
something happened and binds its content by keyed commitments; it never holds a payload, nor a plain hash of one, which
could be guessed. A chain therefore verifies after a patient's key has been destroyed as it did before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring
from typing import NamedTuple

from oncotwin.domain.errors import OncotwinError
from oncotwin.domain.ids import is_name
from oncotwin.domain.merkle import HASH_BYTES, leaf_hash
from oncotwin.domain.moments import write_moment

INSTALLATION = "@installation"
"""Whose chain holds what concerns no single institution; no institution can have this name."""

GENESIS = bytes(HASH_BYTES)
"""What the first entry of a chain names as its predecessor's hash."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class AuditError(OncotwinError):
    """A checkpoint, proof, key or name of the audit trail cannot be read or does not exist."""


class AuditDraft(NamedTuple):
    """Something that happened, not yet in its chain; see `audit_drafts` for the kinds.

    Attributes:
        institution: whose chain it belongs to.
        ref: what it is about, by a name that a person may look for: "source id" of an event, a version, a report.
        content: canonical JSON object: who, what, and keyed commitments.
    """

    institution: str
    kind: str
    ref: str
    content: bytes


class AuditEntry(NamedTuple):
    """One entry of a chain; as a tuple it is a row of a store's table.

    Attributes:
        seq: its number, from 1. at_us: when, in microseconds since 1970-01-01 UTC.
        previous: hash of the entry before it. hash: its own (32 bytes each).
    """

    institution: str
    seq: int
    kind: str
    ref: str
    at_us: int
    content: bytes
    previous: bytes
    hash: bytes

    def to_json(self) -> bytes:
        """The canonical JSON (RFC 8785) that `hash` is the hash of."""
        return entry_json(*self[:7])


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: how many entries it has, and the hash of the last one."""

    size: int = 0
    hash: bytes = GENESIS


def is_chain(name: str) -> bool:
    """Whether a chain may have this name: an institution's, or the installation's."""
    return name == INSTALLATION or is_name(name)


def entry_json(
    institution: str, seq: int, kind: str, ref: str, at_us: int, content: bytes, previous: bytes
) -> bytes:
    """Write an entry as canonical JSON (RFC 8785).

    The fields are known beforehand, so they are written in their order; a property test holds this together with the
    general `canonical_json`. It is injective in every argument: of `content`, which comes in as it is, the last
    ``,"institution":"`` with a bare quote is never a part, as what follows has bare quotes in these places alone.

    Raises:
        ValueError: a text holds half a surrogate pair. OverflowError: a moment beyond the years 1 to 9999.
    """
    return b'{"at":"%b","content":%b,"institution":%b,"kind":%b,"previous":"%b","ref":%b,"seq":%d}' % (
        _moment(at_us), content, _quoted(institution), _quoted(kind), previous.hex().encode(),
        encode_basestring(ref).encode(), seq,
    )


@lru_cache(maxsize=1024)
def _quoted(text: str) -> bytes:
    return encode_basestring(text).encode()


@lru_cache(maxsize=64)  # the entries of one commit have one moment
def _moment(at_us: int) -> bytes:
    return write_moment(_EPOCH + at_us * _MICROSECOND).encode()


def to_us(moment: datetime) -> int:
    """An aware datetime as whole microseconds since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """Whole microseconds as an aware datetime, UTC."""
    return _EPOCH + microseconds * _MICROSECOND


def extend(institution: str, head: Head, drafts: Iterable[AuditDraft], at: datetime) -> list[AuditEntry]:
    """Chain drafts of one institution to the end of its chain, in their order.

    Args:
        at: the moment of all of them, UTC.
    Raises:
        ValueError: a draft is another institution's.
    """
    seq, previous, at_us = head.size, head.hash, to_us(at)
    entries = []
    for draft in drafts:
        if draft.institution != institution:
            raise ValueError(f"an entry of {draft.institution!r} was given to the chain of {institution!r}")
        seq += 1
        own = leaf_hash(entry_json(institution, seq, draft.kind, draft.ref, at_us, draft.content, previous))
        entries.append(
            AuditEntry(institution, seq, draft.kind, draft.ref, at_us, draft.content, previous, own)
        )
        previous = own
    return entries
