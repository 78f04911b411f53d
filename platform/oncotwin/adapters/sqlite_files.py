"""SQLite files that several processes open at once."""

from __future__ import annotations

import sqlite3
import time


def turn_on_write_ahead_log(connection: sqlite3.Connection, patience_s: float) -> None:
    """Once for a file; SQLite does not queue for this change, so of several openers all but one try again.

    Raises:
        sqlite3.OperationalError: it was still locked after ``patience_s`` seconds.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)
