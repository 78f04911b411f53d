"""Checkpoints of the audit chains: made by workers as entries come, signed, and kept in the store and the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from oncotwin.domain.audit import AuditError, Head
from oncotwin.domain.audit_verify import StoredCheckpoint, check_checkpoints
from oncotwin.domain.checkpoint import Checkpoint, SignedCheckpoint, make_checkpoint, read_checkpoint
from oncotwin.domain.merkle import Frontier
from oncotwin.ports.audit_trail import AuditTrail, CheckpointRegistry, Signer
from oncotwin.ports.clock import Clock

_ENTRIES_AN_EVENT = 2
"""An accepted event leads to one entry of its own and about one of the belief that follows."""


class Checkpoints:
    """Signs what has been added to the chains, every so many entries or so often; any number of workers may.

    Args:
        registry: opens a second place for checkpoints; None keeps them in the store alone.
        entries, seconds: after how many entries, or after which time, a worker signs again.
    """

    def __init__(
        self, trail: AuditTrail, signer: Signer, clock: Clock, registry: Callable[[], CheckpointRegistry] | None,
        entries: int, seconds: float,
    ) -> None:
        self._trail = trail
        self._signer = signer
        self._clock = clock
        self._open_registry = registry
        self._entries = entries
        self._patience = timedelta(seconds=seconds)
        self._registry: CheckpointRegistry | None = None
        self._kept: dict[str, set[int]] = {}
        self._made_at: datetime | None = None
        self._n_accepted = 0

    def is_due(self, n_accepted: int) -> bool:
        """Count a run's events; whether there is enough to sign, or enough time has gone by."""
        self._n_accepted += n_accepted
        if self._made_at is None:
            self._made_at = self._clock.now()
        return (
            self._n_accepted * _ENTRIES_AN_EVENT >= self._entries
            or self._clock.now() - self._made_at >= self._patience
        )

    def make(self, institutions: Iterable[str] | None = None) -> list[SignedCheckpoint]:
        """Sign every chain, or those named, that has grown since its last checkpoint, and tell the registry.

        Raises:
            AuditError: a chain does not go on from its last checkpoint, and is not signed; or the registry does not
                answer: it is told the next time. StoreError: the store does not answer.
        """
        now = self._clock.now()
        self._made_at, self._n_accepted = now, 0
        made = []
        for institution in self._trail.institutions() if institutions is None else institutions:
            held = self._trail.checkpoints(institution)
            start = self._last(institution, held)
            signed = self._trail.make_checkpoint(institution, now, self._sign_at(institution, now), start)
            if signed is not None:
                made.append(signed)
            self._publish(institution, held, signed)
        return made

    def _sign_at(self, institution: str, at: datetime) -> Callable[[Head, Frontier], SignedCheckpoint]:
        def sign(head: Head, frontier: Frontier) -> SignedCheckpoint:
            found = make_checkpoint(institution, head, frontier, at, self._signer.own(institution))
            return SignedCheckpoint(found, self._signer.sign(institution, found.to_json()))

        return sign

    def _last(self, institution: str, held: list[StoredCheckpoint]) -> Checkpoint | None:
        """The greatest checkpoint of a chain, from which its tree goes on."""
        if not held:
            return None
        good, flaws = check_checkpoints(held[-1:], self._signer.trusted(), self._signer.verify)
        if flaws:
            raise AuditError(f"{flaws[0].message}; the chain of {institution} is not signed again before it is seen to")
        return good[0]

    def _publish(self, institution: str, held: list[StoredCheckpoint], signed: SignedCheckpoint | None) -> None:
        """Give the registry what it does not have yet."""
        if self._open_registry is None:
            return
        if self._registry is None:
            self._registry = self._open_registry()
        if institution not in self._kept:
            self._kept[institution] = self._registry.sizes(institution)
        kept = self._kept[institution]
        ours = [
            SignedCheckpoint(read_checkpoint(one.body), one.signature) for one in held if one.size not in kept
        ]
        for one in [*ours, *([] if signed is None else [signed])]:
            self._registry.keep(one)
            kept.add(one.checkpoint.size)
