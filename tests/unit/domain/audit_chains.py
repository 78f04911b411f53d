"""Small chains with keys made from a seed, for tests of the audit trail."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oncotwin.adapters.signing import verify_signature
from oncotwin.domain import audit_drafts
from oncotwin.domain.audit import AuditDraft, AuditEntry, Head, extend
from oncotwin.domain.audit_verify import StoredCheckpoint, StoredEntry, Verdict, check_checkpoints, verify_chain
from oncotwin.domain.checkpoint import SignedCheckpoint, make_checkpoint
from oncotwin.domain.merkle import Frontier

NORTH = "north"
START = datetime(2024, 5, 17, 12, tzinfo=UTC)


def key_of(name: str) -> Ed25519PrivateKey:
    """A key pair made from a name."""
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


OWN = key_of(NORTH)
PUBLIC = OWN.public_key().public_bytes_raw()
TRUSTED = {NORTH: frozenset({PUBLIC})}


def commit(twin: str, data: bytes) -> bytes:
    """Commitments under a key for each twin."""
    return hmac.digest(sha256(b"key of " + twin.encode()).digest(), data, "sha256")


def drafts(n: int) -> list[AuditDraft]:
    """Entries of every kind, one after the other."""
    found = []
    for i in range(n):
        twin = f"{NORTH}/patient-{i % 3}"
        tag, bound = audit_drafts.twin_tag(commit, twin), commit(twin, str(i).encode())
        found.append(
            (
                audit_drafts.event_accepted(NORTH, "urn:north:lab", f"result-{i}", "lab.result", tag, bound),
                audit_drafts.estimate(NORTH, tag, i, "7", bound),
                audit_drafts.event_rejected(NORTH, f"letter-{i}", None, "not_json", bound),
                audit_drafts.read(NORTH, "dr. Lovelace", "twin", tag),
                audit_drafts.event_accepted(NORTH, "urn:north:lab", f"fix-{i}", "record.corrected", tag, bound),
                audit_drafts.report_signed(NORTH, f"report-{i}", "dr. Noether", "agreed", tag, i, bound),
            )[i % 6]
        )
    return found


def chain(n: int) -> list[AuditEntry]:
    """A chain of n entries, a second apart."""
    entries: list[AuditEntry] = []
    for i, draft in enumerate(drafts(n)):
        head = Head(len(entries), entries[-1].hash) if entries else Head()
        entries += extend(NORTH, head, [draft], START + timedelta(seconds=i, microseconds=i))
    return entries


def signed(entries: Sequence[AuditEntry], size: int, key: Ed25519PrivateKey = OWN) -> SignedCheckpoint:
    """A checkpoint over the first entries."""
    frontier = Frontier()
    for entry in entries[:size]:
        frontier.append(entry.hash)
    found = make_checkpoint(
        NORTH, Head(size, entries[size - 1].hash), frontier, START, key.public_key().public_bytes_raw()
    )
    return SignedCheckpoint(found, key.sign(found.to_json()))


def held(one: SignedCheckpoint, where: str = "elsewhere") -> StoredCheckpoint:
    """A checkpoint as it is filed somewhere."""
    found = one.checkpoint
    return StoredCheckpoint(where, found.to_json(), one.signature, found.institution, found.size, found.key)


def judge(rows: Sequence[StoredEntry], *checkpoints: StoredCheckpoint) -> Verdict:
    """A chain against checkpoints; flaws of both."""
    good, flaws = check_checkpoints(checkpoints, TRUSTED, verify_signature)
    verdict = verify_chain(NORTH, rows, good)
    return Verdict(
        verdict.institution, verdict.n_entries, verdict.head, verdict.covered, verdict.n_checkpoints,
        (*verdict.flaws, *flaws),
    )
