"""Open an event log from its address."""

from __future__ import annotations

from collections.abc import Mapping

from oncotwin.domain.errors import ConfigurationError
from oncotwin.ports.event_log import EventLog


def open_event_log(
    url: str, topic: str, n_partitions: int = 8, options: Mapping[str, object] | None = None
) -> EventLog:
    """Open one topic of a log, making it when it is not there.

    Args:
        url: `embedded:DIR` (a folder of SQLite files) or `kafka://HOST:PORT[,HOST:PORT...]`.
        topic: letters, digits, dot, dash and underscore.
        n_partitions: of a topic made now; a topic that exists keeps its number.
        options: for Kafka: `security_protocol`, `ssl_*`, `sasl_*`, `client_id`, `replication_factor` and
            timeouts, passed through to the client; the embedded log has none.
    Returns:
        The log; close it when done.
    Raises:
        ConfigurationError: an address, topic or option that means nothing.
        LogError: the log cannot be opened.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "embedded" and rest:
        from oncotwin.adapters.embedded_log import EmbeddedEventLog

        if options:
            raise ConfigurationError(
                f"log {url!r}: the embedded log has no options, but was given {sorted(options)}; remove them"
            )
        return EmbeddedEventLog(rest, topic, n_partitions)
    if scheme == "kafka" and rest.startswith("//") and rest[2:]:
        from oncotwin.adapters.kafka_log import KafkaEventLog

        return KafkaEventLog(rest[2:].split(","), topic, n_partitions, options or {})
    raise ConfigurationError(f"log {url!r} is no address of a log; use embedded:DIR or kafka://HOST:PORT")
