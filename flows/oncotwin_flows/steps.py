"""The named steps of the worker and the relay; those of the transaction are the store's (`COMMIT_STEPS`).

A crash may come between any two of them. What each leaves behind:

leased: leases are renewed or taken. read: records are in memory. prepared: they are judged, doubles are dropped, twins
are registered (harmless to do again). submitted: the hosts fold. folded: the folds are in memory. committed: the store
has the group, nobody here knows it yet. settled: the worker knows.

pending: rows of the outbox are in memory. appended: their topics have them. marked: the store knows.
"""

from __future__ import annotations

WORKER_STEPS = ("leased", "read", "prepared", "submitted", "folded", "committed", "settled")
RELAY_STEPS = ("pending", "appended", "marked")
