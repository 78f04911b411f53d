"""Settings -> adapters. Each engine is imported only when it is asked for: most commands need few of them."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.model_loader import load_model
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.bundle import FilterChoice, ModelBundle
from oncotwin.filters.choice import choose_filter, make_filter
from oncotwin.models.base import TumourModel
from oncotwin.ports.event_log import EventLog
from oncotwin.ports.model_registry import ModelRegistry
from oncotwin.ports.twin_host import TwinHost
from oncotwin.ports.twin_store import TwinStore
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.journal import decode
from oncotwin.twin.shard import History, TwinShard

LITERATURE = "literature"
"""Name of the version that stands for the priors of the papers, until a calibration has been promoted."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """The present moment, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def open_log(settings: Settings, topic: str | None = None) -> EventLog:
    """The event log on the hospital's topic, or on another."""
    return open_event_log(settings.log_url, topic or settings.topic, settings.partitions, settings.log_options)


def log_name(settings: Settings) -> str:
    """Name under which the store keeps the offsets of this log's topic."""
    return f"{settings.log_url}#{settings.topic}"


def open_store(settings: Settings) -> TwinStore:
    """The twin store, migrated to this release."""
    from oncotwin.adapters.sql_store import open_twin_store

    return open_twin_store(settings.store_url)


def open_registry(settings: Settings) -> ModelRegistry:
    """The model registry."""
    from oncotwin.adapters.mlflow_registry import MlflowRegistry

    return MlflowRegistry(settings.mlflow_uri)


def worker_name(settings: Settings) -> str:
    """This worker's name in leases."""
    return settings.worker or f"{socket.gethostname()}:{os.getpid()}"


def models(settings: Settings) -> list[TumourModel]:
    """The models named in the settings, in order of preference."""
    return [load_model(path) for path in settings.models]


def filter_choice(settings: Settings) -> FilterChoice:
    """The filter that the settings name for versions to come.

    Raises:
        ConfigurationError: no such filter, or a size that it cannot have.
    """
    return choose_filter(settings.filter, settings.members)


def load_bundle(settings: Settings, version: str) -> tuple[str, ModelBundle]:
    """A registered bundle by version or alias; the literature's priors while there is no champion.

    Raises:
        ModelError: no such version.
    """
    if version == LITERATURE:
        return LITERATURE, ModelBundle({})
    registry = open_registry(settings)
    if version == "champion" and registry.alias("champion") is None:
        return LITERATURE, ModelBundle({})
    return registry.load(version)


@lru_cache(maxsize=8)
def _bound(path_list: tuple[str, ...], version: str, bundle_json: str) -> Binding:
    bundle = ModelBundle.from_json(bundle_json)
    return bind(version, bundle, [load_model(path) for path in path_list], make_filter(bundle.filter), DriftSettings())


def binding(settings: Settings, version: str = "champion") -> Binding:
    """Everything that a twin's state depends on besides its journal."""
    name, bundle = load_bundle(settings, version)
    return _bound(tuple(settings.models), name, bundle.to_json())


def history(store: TwinStore, version: str) -> History:
    """How a shard that follows a model version reads the store."""
    return History(
        journal=lambda twin_id, since: store.journal(twin_id, since=since),
        snapshots=lambda twin_ids, before: store.latest_snapshots(twin_ids, before, model_version=version),
        decode=decode, close=store.close,
    )


@dataclass(frozen=True)
class ShardFactory:
    """Builds a shard where it is called: in an actor's own process it opens the store and the registry there."""

    settings: Settings
    bundle_json: str
    version: str = LITERATURE

    def __call__(self, version: str) -> TwinShard:
        """A shard that follows a version."""
        if version == self.version:
            bound = _bound(tuple(self.settings.models), version, self.bundle_json)
        else:
            bound = binding(self.settings, version)
        return TwinShard(bound, history(open_store(self.settings), version))


def open_host(settings: Settings, version: str) -> TwinHost:
    """Where the twins live: Ray actors, or this process.

    Raises:
        ConfigurationError: the Ray cluster cannot be reached.
    """
    name, bundle = load_bundle(settings, version)
    # Folding needs no forecast layer; without it the bundle is small enough to travel with an actor's constructor,
    # which Ray must be able to run again when the actor is restarted.
    slim = replace(
        bundle, models={key: replace(prior, forecast_calibration={}) for key, prior in bundle.models.items()}
    )
    factory = ShardFactory(settings, slim.to_json(), name)
    if settings.ray == "in-process":
        from oncotwin.adapters.garbage import collect_rarely
        from oncotwin.adapters.local_host import LocalHost

        collect_rarely()
        return LocalHost(factory(name))
    from oncotwin.adapters.ray_cluster import connect
    from oncotwin.adapters.ray_host import RayHost

    connect(settings.ray, settings.ray_cpus)
    return RayHost(
        factory, name, twins_per_actor=settings.twins_per_actor, idle_actor_s=settings.idle_actor_s
    )


def clock_skew(settings: Settings) -> timedelta:
    """How far a clinical time may lie in the future."""
    return timedelta(seconds=settings.clock_skew_s)

