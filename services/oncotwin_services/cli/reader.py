"""Who reads patients' data at the command line, told to the audit trail before anything is shown."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from oncotwin.bootstrap import wiring
from oncotwin.domain.ids import TwinId
from oncotwin.ports.twin_store import TwinStore
from oncotwin_flows.audit import record_reads

NICENESS = 5
"""Of a process that answers a question: the stream of the same machine goes first."""


@contextmanager
def giving_way() -> Iterator[None]:
    """Lower this process's priority for a while; whoever may not raise it again keeps the lower one."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(before, NICENESS))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


def reader() -> str:
    """Who asks, as the audit trail names them: the machine's user."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container may run under a number that has no name
        return f"cli:{os.getuid()}"


def tell_of_reading(store: TwinStore, twin_ids: Iterable[TwinId | None], what: str) -> None:
    """One entry for each patient whose data are about to be shown.

    Args:
        twin_ids: with doubles, and None or an institution's name alone for what concerns no patient.
        what: the command.
    Raises:
        StoreError: the store cannot be written; nothing is to be shown then.
    """
    patients = sorted({one for one in twin_ids if one is not None and "/" in one})
    if patients:
        record_reads(store.audit, patients, reader(), what, wiring.SystemClock().now())
