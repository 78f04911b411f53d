"""The outbox relay: what commits have put aside goes to its topics, at least once, with keys to drop doubles by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from oncotwin.ports.event_log import EventLog, NewRecord
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.ports.twin_store import TwinStore


class Relay:
    """Publishes pending rows in order; a row is marked only after its topic has it."""

    def __init__(
        self, store: TwinStore, open_topic: Callable[[str], EventLog], chunk: int = 2_000, on_step: OnStep = no_step
    ) -> None:
        self._store = store
        self._open_topic = open_topic
        self._topics: dict[str, EventLog] = {}
        self._chunk = chunk
        self._on_step = on_step

    def publish(self) -> int:
        """Publish all that is pending; returns how many rows.

        Raises:
            LogError: a topic does not take them; they stay pending.
        """
        n = 0
        while rows := self._store.pending_outbox(self._chunk):
            self._on_step("pending")
            by_topic: dict[str, list[NewRecord]] = defaultdict(list)
            for _, row in rows:
                by_topic[row.topic].append(NewRecord(row.key, row.value, row.headers))
            for topic, messages in by_topic.items():
                if topic not in self._topics:
                    self._topics[topic] = self._open_topic(topic)
                self._topics[topic].append(messages)
                self._on_step("appended")
            self._store.mark_published([number for number, _ in rows])
            self._on_step("marked")
            n += len(rows)
        return n

    def close(self) -> None:
        """Close the topics."""
        for log in self._topics.values():
            log.close()
        self._topics.clear()
