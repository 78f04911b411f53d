"""The kinds of audit entries and what each of them says.

A twin appears as a tag alone, a keyed commitment to its name: entries of one twin can be found by whoever holds its
key, and by nobody once that key is destroyed. Hashes appear as commitments under the same key. Both are made by a
`Commit`, which the store gives from its sealer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from oncotwin.domain.audit import INSTALLATION, AuditDraft
from oncotwin.domain.canonical import canonical_json
from oncotwin.domain.ids import TwinId, is_name

Commit = Callable[[TwinId, bytes], bytes]
"""(twin, data) -> keyed commitment under the twin's key; twin "" is the installation's own key."""

EVENT_ACCEPTED = "event.accepted"
EVENT_REJECTED = "event.rejected"
RECORD_CORRECTED = "record.corrected"
CONSENT_CHANGED = "consent.changed"
PATIENT_ERASED = "patient.erased"
ESTIMATE = "estimate"
MODEL_REGISTERED = "model.registered"
MODEL_PROMOTED = "model.promoted"
READ = "read"
REPORT_SIGNED = "report.signed"
CHECKPOINT = "checkpoint"

KINDS = (
    EVENT_ACCEPTED, EVENT_REJECTED, RECORD_CORRECTED, CONSENT_CHANGED, PATIENT_ERASED, ESTIMATE, MODEL_REGISTERED,
    MODEL_PROMOTED, READ, REPORT_SIGNED, CHECKPOINT,
)

_OF_EVENT_KIND = {kind: kind for kind in (RECORD_CORRECTED, CONSENT_CHANGED, PATIENT_ERASED)}
_TAG_BYTES = 16
_MOVED = "record.moved"


def twin_tag(commit: Commit, twin: TwinId) -> str:
    """A twin's name under its key: 128 bits, hexadecimal."""
    return commit(twin, b"twin")[:_TAG_BYTES].hex()


@lru_cache(maxsize=16_384)
def institution_of(twin: TwinId | None) -> str:
    """Whose chain tells of a twin; the installation's where no institution is known."""
    name = "" if twin is None else twin.partition("/")[0]
    return name if is_name(name) else INSTALLATION


def event_ref(source: str, event_id: str, kind: str) -> str:
    """How entries name an event; the id of a word on a moved event names both patients, and that part goes."""
    if kind == _MOVED:
        original, mark, move = event_id.rpartition("#moved-")
        event_id = f"{original}{mark}{move.partition('-')[0]}"
    return f"{source} {event_id}"


def event_accepted(
    institution: str, source: str, event_id: str, kind: str, tag: str, commitment: bytes
) -> AuditDraft:
    """An event went into the journal; corrections, consent and erasure have kinds of their own.

    Args:
        commitment: to the content hash, under the twin's key.
    """
    # Written out: this is on the way of every event. Kinds and hexadecimal digits need no escapes.
    return AuditDraft(
        institution, _OF_EVENT_KIND.get(kind, EVENT_ACCEPTED), event_ref(source, event_id, kind),
        b'{"commitment":"%b","event":"%b","twin":"%b"}' % (
            commitment.hex().encode(), kind.encode(), tag.encode()
        ),
    )


def event_rejected(
    institution: str, rejection_id: str, key: tuple[str, str] | None, reason_code: str, commitment: bytes
) -> AuditDraft:
    """An event was refused.

    Args:
        rejection_id: its dead letter; a reference where source and id could not be read.
        commitment: to the bytes as they came, under the twin's key, or the installation's where no twin is known.
    """
    return AuditDraft(
        institution, EVENT_REJECTED, rejection_id if key is None else " ".join(key),
        canonical_json({"commitment": commitment.hex(), "letter": rejection_id, "reason": reason_code}),
    )


def estimate(institution: str, tag: str, version: int, model_version: str, commitment: bytes) -> AuditDraft:
    """A belief was published: the twin's version after a commit.

    Args:
        commitment: to the digest of the state, under the twin's key.
    """
    return AuditDraft(
        institution, ESTIMATE, f"{tag} {version}",
        b'{"commitment":"%b","model":%b}' % (commitment.hex().encode(), _quoted(model_version)),
    )


@lru_cache(maxsize=64)
def _quoted(text: str) -> bytes:
    return canonical_json(text)


def model_registered(version: str, bundle_hash: str) -> AuditDraft:
    """A model version was registered; its bundle is no patient's, so its plain SHA-256 may stand."""
    return AuditDraft(
        INSTALLATION, MODEL_REGISTERED, version, canonical_json({"bundle": bundle_hash, "version": version})
    )


def model_promoted(version: str, before: str | None, by: str, position: int) -> AuditDraft:
    """A version became champion from a commit position on; a rollback is the same."""
    return AuditDraft(
        INSTALLATION, MODEL_PROMOTED, version,
        canonical_json({"before": before, "by": by, "position": position, "version": version}),
    )


def read(institution: str, by: str, what: str, tag: str) -> AuditDraft:
    """A patient's data were read.

    Args:
        by: user. what: the command or the address: "twin", "forecast", "report".
    """
    return AuditDraft(
        institution, READ, f"{tag} {what}", canonical_json({"by": by, "twin": tag, "what": what})
    )


def patient_erased(institution: str, tag: str, reason: str, source: str, event_id: str) -> AuditDraft:
    """A patient's key was destroyed and the rows taken away.

    Args:
        tag: "" where the key was destroyed before; source, event_id: the event that ordered it, "" where a person did.
    """
    return AuditDraft(
        institution, PATIENT_ERASED, f"{tag} erased",
        canonical_json({"event": f"{source} {event_id}".strip(), "reason": reason, "twin": tag}),
    )


def report_signed(
    institution: str, report_id: str, by: str, verdict: str, tag: str, version: int, commitment: bytes
) -> AuditDraft:
    """A person signed a report or a decision.

    Args:
        version: of the twin that it rests on. commitment: to the report's body, under the twin's key.
    """
    return AuditDraft(
        institution, REPORT_SIGNED, report_id,
        canonical_json(
            {
                "by": by, "commitment": commitment.hex(), "report": report_id, "twin": tag, "verdict": verdict,
                "version": version,
            }
        ),
    )


def checkpoint(institution: str, size: int, root: bytes, key: bytes) -> AuditDraft:
    """A checkpoint over all entries before this one was signed."""
    return AuditDraft(
        institution, CHECKPOINT, str(size),
        canonical_json({"key": key.hex(), "root": root.hex(), "size": size}),
    )
