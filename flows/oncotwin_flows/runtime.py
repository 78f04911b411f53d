"""How flows run in this process: Prefect without a server of its own keeps history in a local one it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

# Prefect reads its settings when it is imported, so these stand before the import.
# What fails is raised to the caller, who says it once; Prefect would print its trace for the task and for the flow.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# A busy small machine needs longer than the default 20 s.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

T = TypeVar("T")

__all__ = ["NO_CACHE", "Sealed", "flow", "quick_flows", "task"]


@contextmanager
def quick_flows() -> Iterator[None]:
    """Without the heartbeat thread each synchronous run ends a second sooner."""
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


class Sealed(Generic[T]):
    """A parameter that Prefect cannot look into.

    Prefect writes the parameters of each run into its database, value by value. Patients' data and open connections
    have no business there, so flows take them sealed and Prefect keeps no more than this class's name.
    """

    __slots__ = ("content",)

    def __init__(self, content: T) -> None:
        self.content = content
