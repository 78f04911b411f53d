"""The audit trail in use: verified, proved, exchanged, and told of what people read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from oncotwin.domain import audit_drafts
from oncotwin.domain.audit import AuditEntry, AuditError, is_chain
from oncotwin.domain.audit_verify import (
    Flaw,
    StoredCheckpoint,
    Verdict,
    check_checkpoints,
    verify_chain,
)
from oncotwin.domain.canonical import canonical_json
from oncotwin.domain.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    inclusion_proof,
    read_hex,
    signed_checkpoint_of,
)
from oncotwin.domain.errors import EventError
from oncotwin.domain.ids import TwinId
from oncotwin.domain.merkle import HASH_BYTES, Tree, leaf_hash, verify_consistency, verify_inclusion
from oncotwin.domain.strict_json import loads
from oncotwin.ports.audit_trail import AuditTrail, CheckpointRegistry, Signer
from oncotwin_flows.checkpoints import Checkpoints


@dataclass(slots=True)
class Report:
    """What a verification found.

    Attributes:
        verdicts: of each chain that is here. elsewhere: checkpoints held of institutions whose chains are not here.
        flaws: checkpoints that belong to no chain here and are not to be believed.
        notes: what could not be asked.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    elsewhere: dict[str, int] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def all_flaws(self) -> list[Flaw]:
        """Bad entries first, chain by chain, then bad checkpoints."""
        return [flaw for verdict in self.verdicts for flaw in verdict.flaws] + self.flaws


def verify(
    trail: AuditTrail, signer: Signer, registry: CheckpointRegistry | None = None,
    more: Sequence[StoredCheckpoint] = (), institution: str | None = None,
) -> Report:
    """Verify every chain, or one, against all checkpoints at hand.

    Args:
        registry: where else checkpoints are kept. more: checkpoints from elsewhere still.
        institution: the one chain to verify; it must be there if any checkpoint tells of it.
    Raises:
        StoreError: the store does not answer.
    """
    report = Report()
    stored = trail.checkpoints()
    held = [*stored, *more]
    if registry is not None:
        try:
            held += registry.held()
        except AuditError as error:
            report.notes.append(str(error))
    good, flaws = check_checkpoints(held, signer.trusted(), signer.verify)
    chains = set(trail.institutions())
    # What we sign for must have a chain here as soon as a checkpoint tells of it.
    told = {one.institution for one in good}
    ours = chains | (told & signer.owned().keys()) | ({institution} & told if institution is not None else set())
    for name in sorted(ours if institution is None else ours & {institution}):
        of_chain = [one for one in good if one.institution == name]
        kept = {one.size for one in stored if one.institution == name and type(one.size) is int}
        with closing(trail.rows(name)) as rows:
            verdict = verify_chain(name, rows, of_chain, kept)
        bad = tuple(flaw for flaw in flaws if flaw.institution == name)
        report.verdicts.append(
            Verdict(
                name, verdict.n_entries, verdict.head, verdict.covered, verdict.n_checkpoints, verdict.flaws + bad
            )
        )
    report.flaws = [flaw for flaw in flaws if flaw.institution not in ours]
    for name in sorted(told - ours) if institution is None else ():
        report.elsewhere[name] = sum(one.institution == name for one in good)
    return report


def find_entry(trail: AuditTrail, name: str) -> tuple[AuditEntry, list[AuditEntry]]:
    """The entry that a name stands for, and others that it might.

    Args:
        name: ``institution:seq``, an event's id, "source id", a report, a model version, a refused event.
    Raises:
        AuditError: no entry has this name.
    """
    institution, _, seq = name.rpartition(":")
    if is_chain(institution) and seq.isascii() and seq.isdigit() and len(seq) < 16:
        found = trail.entry(institution, int(seq))
        if found is not None:
            return found, []
    entries = trail.find(name)
    if not entries:
        raise AuditError(
            f"no entry of the audit trail is of {name!r}; give an event's id, 'source id', or institution:number as "
            "`oncotwin audit show` lists them"
        )
    # An event's own entry before others that bear the same name by chance.
    order = {kind: rank for rank, kind in enumerate(audit_drafts.KINDS)}
    entries.sort(key=lambda entry: order.get(entry.kind, len(order)))
    return entries[0], entries[1:]


def prove(trail: AuditTrail, signer: Signer, checkpoints: Checkpoints, entry: AuditEntry) -> dict[str, Any]:
    """A proof that an entry is in its chain as it was signed; an entry that no checkpoint covers yet gets one now.

    Raises:
        AuditError: the chain does not have the root that was signed: `oncotwin audit verify` says where it is bad.
    """
    institution = entry.institution
    signed = _covering(trail, signer, institution, entry.seq)
    if signed is None:
        checkpoints.make([institution])
        signed = _covering(trail, signer, institution, entry.seq)
    if signed is None:
        raise AuditError(f"no checkpoint covers entry {entry.seq} of {institution}; run `oncotwin audit verify`")
    size = signed.checkpoint.size
    tree = Tree(lambda begin, end: trail.hashes(institution, begin, end))
    try:
        path = tree.inclusion(entry.seq - 1, size)
    except ValueError as error:
        raise AuditError(f"the chain of {institution} is not whole: {error}; run `oncotwin audit verify`") from None
    leaf = leaf_hash(entry.to_json())
    if not verify_inclusion(leaf, entry.seq - 1, size, path, signed.checkpoint.root):
        raise AuditError(
            f"entry {entry.seq} of {institution} is not in the tree that was signed at {size} entries: it or another "
            "was changed; `oncotwin audit verify` names the first bad entry"
        )
    return inclusion_proof(entry, path, signed)


def _covering(trail: AuditTrail, signer: Signer, institution: str, seq: int) -> SignedCheckpoint | None:
    """The greatest believed checkpoint of a chain, if it covers an entry."""
    for one in reversed(trail.checkpoints(institution)):
        good, _ = check_checkpoints([one], signer.trusted(), signer.verify)
        if good:
            return SignedCheckpoint(good[0], one.signature) if good[0].size >= seq else None
    return None


def export_checkpoints(trail: AuditTrail, signer: Signer, institution: str | None = None) -> Iterator[bytes]:
    """Lines of an exchange file: believed checkpoints, each with a proof that its chain begins with the one before.

    Checkpoints of institutions whose chains are elsewhere are passed on as they came.
    """
    chains = set(trail.institutions())
    before: Checkpoint | None = None
    tree: Tree | None = None
    for one in trail.checkpoints(institution):
        good, _ = check_checkpoints([one], signer.trusted(), signer.verify)
        if not good:
            continue
        found = good[0]
        if before is None or before.institution != found.institution:
            before, name = None, found.institution
            tree = _tree(trail, name) if name in chains else None
        line = SignedCheckpoint(found, one.signature).to_dict()
        if before is not None and tree is not None:
            proof = tree.consistency(before.size, found.size)
            line |= {"after": before.size, "consistency": [node.hex() for node in proof]}
        yield canonical_json(line) + b"\n"
        before = found


def _tree(trail: AuditTrail, institution: str) -> Tree:
    return Tree(lambda begin, end: trail.hashes(institution, begin, end))


def read_checkpoints(lines: Iterable[bytes], where: str) -> list[tuple[SignedCheckpoint, int, list[bytes]]]:
    """Read an exchange file: checkpoints, the size that each one's proof begins with (0 for none), and the proof.

    Raises:
        AuditError: a line is none, with its number.
    """
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = loads(line)
            signed = signed_checkpoint_of(content)
            after, proof = content.get("after", 0), content.get("consistency", [])
            if type(after) is not int or not isinstance(proof, list) or len(proof) > 128:
                raise AuditError("'after' must be a size and 'consistency' a list of hashes")
            nodes = [read_hex(node, HASH_BYTES, "consistency") for node in proof]
        except EventError as error:
            raise AuditError(f"{where}, line {number}: {error.reason}") from None
        except AuditError as error:
            raise AuditError(f"{where}, line {number}: {error}") from None
        found.append((signed, after, nodes))
    return found


def as_stored(read: Iterable[tuple[SignedCheckpoint, int, list[bytes]]], where: str) -> list[StoredCheckpoint]:
    """Checkpoints of an exchange file as `verify` takes them."""
    return [StoredCheckpoint(where, signed.checkpoint.to_json(), signed.signature) for signed, _, _ in read]


def import_checkpoints(trail: AuditTrail, signer: Signer, lines: Iterable[bytes], where: str) -> tuple[int, int]:
    """Hold another institution's checkpoints, so that it cannot take back what it signed.

    Returns:
        (checkpoints read, checkpoints that were new).
    Raises:
        AuditError: one is not signed by a trusted key, or contradicts another one that is held: two of one size with
            different roots, or a proof that fails. Nothing is kept then.
    """
    read = read_checkpoints(lines, where)
    stored = as_stored(read, where)
    held, _ = check_checkpoints(trail.checkpoints(), signer.trusted(), signer.verify)
    known = {(one.institution, one.size): one for one in held}
    for (signed, after, proof), one in zip(read, stored, strict=True):
        found = signed.checkpoint
        _, flaws = check_checkpoints([one], signer.trusted(), signer.verify)
        if flaws:
            raise AuditError(flaws[0].message)
        same = known.setdefault((found.institution, found.size), found)
        if (same.root, same.head) != (found.root, found.head):
            raise AuditError(
                f"{where}: {found.institution} has signed two different chains of {found.size} entries; keep both "
                "files, and ask it for an explanation"
            )
        old = known.get((found.institution, after))
        if old is not None and not verify_consistency(after, old.root, found.size, found.root, proof):
            raise AuditError(
                f"{where}: the chain of {found.institution} at {found.size} entries does not begin with what it "
                f"signed at {after}: it was rewritten; keep both files, and ask it for an explanation"
            )
    return len(read), trail.keep_checkpoints([signed for signed, _, _ in read])


def record_reads(trail: AuditTrail, twin_ids: Sequence[TwinId], by: str, what: str, at: datetime) -> None:
    """Tell the trail that somebody read patients' data; whoever serves them does this first.

    Args:
        by: the user. what: the command or address.
    Raises:
        StoreError: the store cannot be written; nothing is to be shown then.
    """
    trail.append(
        [
            audit_drafts.read(
                audit_drafts.institution_of(twin_id), by, what, audit_drafts.twin_tag(trail.commitment, twin_id)
            )
            for twin_id in twin_ids
        ],
        at,
    )
