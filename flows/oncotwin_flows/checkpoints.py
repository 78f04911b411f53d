"""Checkpoints of the audit chains: made by workers as entries come, signed, and kept in the store and the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.audit import AuditError, Head
from oncotwin.domain.audit_verify import check_checkpoints
from oncotwin.domain.checkpoint import Checkpoint, SignedCheckpoint, make_checkpoint, read_checkpoint
from oncotwin.domain.errors import OncotwinError
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
            AuditError: a chain does not go on from its last checkpoint, and is not signed, or the registry does not
                answer; all that can be done is done first, and the registry is told the next time. StoreError: the
                store does not answer.
        """
        now = self._clock.now()
        self._made_at, self._n_accepted = now, 0
        made: list[SignedCheckpoint] = []
        failures: list[AuditError] = []
        names = self._trail.institutions() if institutions is None else list(institutions)
        for institution in names:
            try:
                start = self._last(institution)
                signed = self._trail.make_checkpoint(institution, now, self._sign_at(institution, now), start)
            except AuditError as error:
                failures.append(error)
                continue
            if signed is not None:
                made.append(signed)
        if self._open_registry is not None:
            self._publish(names, self._open_registry)
        if failures:
            raise failures[0]
        return made

    def _sign_at(self, institution: str, at: datetime) -> Callable[[Head, Frontier], SignedCheckpoint]:
        def sign(head: Head, frontier: Frontier) -> SignedCheckpoint:
            found = make_checkpoint(institution, head, frontier, at, self._signer.own(institution))
            return SignedCheckpoint(found, self._signer.sign(institution, found.to_json()))

        return sign

    def _last(self, institution: str) -> Checkpoint | None:
        """The greatest checkpoint of a chain, from which its tree goes on."""
        held = self._trail.checkpoints(institution)
        if not held:
            return None
        good, flaws = check_checkpoints(held[-1:], self._signer.trusted(), self._signer.verify)
        if flaws:
            raise AuditError(f"{flaws[0].message}; the chain of {institution} is not signed again before it is seen to")
        return good[0]

    def _publish(self, institutions: Iterable[str], open_registry: Callable[[], CheckpointRegistry]) -> None:
        """Give the registry what it does not have yet."""
        if self._registry is None:
            self._registry = open_registry()
        for institution in institutions:
            if institution not in self._kept:
                self._kept[institution] = self._registry.sizes(institution)
            kept = self._kept[institution]
            for one in self._trail.checkpoints(institution):
                if one.size not in kept:
                    self._registry.keep(SignedCheckpoint(read_checkpoint(one.body), one.signature))
                    kept.add(one.size)


@contextmanager
def open_checkpoints(
    settings: Settings, announce: Callable[[str], None] | None = None
) -> Iterator[Callable[[int], None]]:
    """What a worker calls after each run with the events that it took in; at the end the rest is signed too.

    A chain that cannot be signed, or a registry that is away, is announced and stops nobody.
    """
    store = wiring.open_store(settings)
    checkpoints = checkpoints_of(settings, store.audit)

    def make() -> None:
        try:
            checkpoints.make()
        except OncotwinError as error:
            if announce is not None:
                announce(f"no checkpoint of the audit trail: {error}")

    def after_run(n_accepted: int) -> None:
        if checkpoints.is_due(n_accepted):
            make()

    try:
        yield after_run
        make()
    finally:
        store.close()


def checkpoints_of(settings: Settings, trail: AuditTrail, *, publish: bool = True) -> Checkpoints:
    """Signs a trail as the settings say; without ``publish`` the registry is told by whoever signs next."""
    return Checkpoints(
        trail, wiring.open_signer(settings), wiring.SystemClock(),
        (lambda: wiring.open_checkpoint_registry(settings)) if publish else None,
        settings.checkpoint_entries, settings.checkpoint_seconds,
    )
