"""Checkpoints: what a chain was at a moment, signed, small enough to be held elsewhere; and proofs against them.

Whoever holds a checkpoint can tell whether a chain that is shown later still begins with what was signed: no entry
changed, none cut off at the end. Signatures are Ed25519 over the checkpoint's canonical JSON; a key's id is the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oncotwin.domain.audit import AuditEntry, AuditError, Head, is_chain
from oncotwin.domain.canonical import canonical_json
from oncotwin.domain.errors import EventError
from oncotwin.domain.merkle import Frontier, fold_peaks
from oncotwin.domain.moments import to_utc, write_moment
from oncotwin.domain.strict_json import loads

CHECKPOINT_FORMAT = "oncotwin-checkpoint-v1"
PROOF_FORMAT = "oncotwin-inclusion-proof-v1"
KEY_BYTES, SIGNATURE_BYTES = 32, 64
_FIELDS = {"at", "format", "head", "institution", "key", "peaks", "root", "size"}
_HEX = re.compile(r"(?:[0-9a-f]{2})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A chain's state.

    Attributes:
        size: number of entries. head: hash of the last one.
        peaks: roots of the tree's complete subtrees, greatest first; the next checkpoint goes on from them.
        key: public key (32 bytes) of the signature.
    """

    institution: str
    size: int
    head: bytes
    peaks: tuple[bytes, ...]
    at: datetime
    key: bytes

    @property
    def root(self) -> bytes:
        """Root of the Merkle tree (RFC 6962) over the entries' hashes."""
        return fold_peaks(self.peaks)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "at": write_moment(self.at), "format": CHECKPOINT_FORMAT, "head": self.head.hex(),
            "institution": self.institution, "key": self.key.hex(), "peaks": [peak.hex() for peak in self.peaks],
            "root": self.root.hex(), "size": self.size,
        }

    def to_json(self) -> bytes:
        """The canonical JSON that is signed."""
        return canonical_json(self.to_dict())

    def frontier(self) -> Frontier:
        """The tree, ready to grow."""
        return Frontier(self.size, self.peaks)


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint's canonical JSON with its signature (64 bytes)."""

    checkpoint: Checkpoint
    signature: bytes

    def to_dict(self) -> dict[str, Any]:
        """One line of an exchange file."""
        return {"checkpoint": self.checkpoint.to_dict(), "signature": self.signature.hex()}


def make_checkpoint(institution: str, head: Head, frontier: Frontier, at: datetime, key: bytes) -> Checkpoint:
    """A checkpoint of a chain as it stands."""
    return Checkpoint(institution, head.size, head.hash, tuple(frontier.peaks), at, key)


def read_checkpoint(body: bytes) -> Checkpoint:
    """Read a checkpoint's canonical JSON.

    Raises:
        AuditError: anything else, to the byte.
    """
    try:
        content = loads(body)
    except EventError as error:
        raise AuditError(f"a checkpoint cannot be read: {error.reason}") from None
    found = checkpoint_of(content)
    if found.to_json() != body:
        raise AuditError("a checkpoint is not written as canonical JSON (RFC 8785)")
    return found


def checkpoint_of(content: Any) -> Checkpoint:
    """Read a checkpoint from plain JSON values.

    Raises:
        AuditError: a field is missing, unknown, or not what it should be.
    """
    if not isinstance(content, dict) or set(content) != _FIELDS or content["format"] != CHECKPOINT_FORMAT:
        raise AuditError(f"a checkpoint must have exactly the fields {sorted(_FIELDS)}, format {CHECKPOINT_FORMAT!r}")
    institution, size, at, peaks = (content[name] for name in ("institution", "size", "at", "peaks"))
    if not isinstance(institution, str) or not is_chain(institution):
        raise AuditError("a checkpoint names no institution")
    if type(size) is not int or not 0 < size < 2**53:
        raise AuditError("a checkpoint's size must be a whole number from 1")
    if not isinstance(peaks, list) or len(peaks) != size.bit_count():
        raise AuditError(f"a checkpoint of size {size} must have {size.bit_count()} peaks")
    try:
        moment = to_utc(at) if isinstance(at, str) else None
    except ValueError:
        moment = None
    if moment is None or write_moment(moment) != at:
        raise AuditError("a checkpoint's moment must be RFC 3339, UTC")
    found = Checkpoint(
        institution, size, read_hex(content["head"], 32, "head"),
        tuple(read_hex(peak, 32, "peaks") for peak in peaks), moment, read_hex(content["key"], KEY_BYTES, "key"),
    )
    if found.root.hex() != content["root"]:
        raise AuditError("a checkpoint's peaks do not fold to its root")
    return found


def signed_checkpoint_of(content: Any) -> SignedCheckpoint:
    """Read one line of an exchange file; the signature is not checked here.

    Raises:
        AuditError: it is none.
    """
    if not isinstance(content, Mapping) or not {"checkpoint", "signature"} <= set(content):
        raise AuditError("a line of a checkpoint file must hold 'checkpoint' and 'signature'")
    return SignedCheckpoint(
        checkpoint_of(content["checkpoint"]), read_hex(content["signature"], SIGNATURE_BYTES, "signature")
    )


def read_hex(text: Any, n_bytes: int, where: str) -> bytes:
    """Read lower-case hexadecimal digits of a given length.

    Raises:
        AuditError: anything else.
    """
    if not isinstance(text, str) or len(text) != 2 * n_bytes or not _HEX.fullmatch(text):
        raise AuditError(f"{where} must be {2 * n_bytes} lower-case hexadecimal digits")
    return bytes.fromhex(text)


def inclusion_proof(entry: AuditEntry, path: Sequence[bytes], signed: SignedCheckpoint) -> dict[str, Any]:
    """The document that `oncotwin audit prove` prints; docs/audit.md says how to check it."""
    return {
        "format": PROOF_FORMAT,
        "entry": json.loads(entry.to_json()),
        "leaf_hash": entry.hash.hex(),
        "leaf_index": entry.seq - 1,
        "tree_size": signed.checkpoint.size,
        "audit_path": [node.hex() for node in path],
        **signed.to_dict(),
    }
