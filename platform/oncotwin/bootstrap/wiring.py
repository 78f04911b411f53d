"""Settings -> adapters. Each engine is imported only when it is asked for: most commands need few of them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.model_loader import load_model
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.bundle import FilterChoice, ModelBundle
from oncotwin.domain.ids import TwinId
from oncotwin.filters.choice import choose_filter, make_filter
from oncotwin.models.base import TumourModel
from oncotwin.ports.audit_trail import CheckpointRegistry, Signer
from oncotwin.ports.event_log import EventLog
from oncotwin.ports.key_store import KeyStore
from oncotwin.ports.lag_book import LagBook
from oncotwin.ports.line_store import LineStore
from oncotwin.ports.model_registry import ModelRegistry
from oncotwin.ports.steps import OnStep, no_step
from oncotwin.ports.twin_host import TwinHost
from oncotwin.ports.twin_store import TwinStore
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.journal import decode
from oncotwin.twin.shard import History, TwinShard

if TYPE_CHECKING:
    from oncotwin.adapters.sealing import Sealer

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


def open_keys(settings: Settings) -> KeyStore:
    """Where patients' keys lie."""
    from oncotwin.adapters.keys import open_key_store

    return open_key_store(settings.keys_url, settings.keys_master)


def open_sealer(settings: Settings) -> Sealer:
    """What seals and opens patients' data, with a connection to the keys of its own."""
    from oncotwin.adapters.sealing import Sealer

    return Sealer(open_keys(settings))


def open_log(settings: Settings, topic: str | None = None) -> EventLog:
    """The event log on the hospital's topic, or on another; the embedded one lies under seal.

    A Kafka topic is not sealed: others write and read it, and its retention bounds what it holds.
    """
    options = dict(settings.log_options)
    if settings.log_url.startswith("kafka:"):
        options.setdefault("retention_days", settings.log_retention_days)
    log = open_event_log(settings.log_url, topic or settings.topic, settings.partitions, options)
    if not settings.log_url.startswith("embedded:"):
        return log
    from oncotwin.adapters.sealed_log import SealedLog

    return SealedLog(log, open_sealer(settings))


def blank_log(settings: Settings, twin_id: TwinId) -> int:
    """Take out of the embedded log what an earlier release appended of a patient unsealed; returns how many records.

    A Kafka topic loses it by its retention.
    """
    scheme, _, folder = settings.log_url.partition(":")
    if scheme != "embedded":
        return 0
    from oncotwin.adapters.embedded_log import blank_records
    from oncotwin.adapters.sealing import MARK, is_sealed

    return blank_records(folder, twin_id, MARK, is_sealed)


def log_name(settings: Settings) -> str:
    """Name under which the store keeps the offsets of this log's topic."""
    return f"{settings.log_url}#{settings.topic}"


def open_store(settings: Settings, on_step: OnStep = no_step) -> LineStore:
    """The twin store, migrated to this release; ``on_step`` is told of the named steps of its commits."""
    from oncotwin.adapters.sql_store import open_twin_store

    return open_twin_store(settings.store_url, sealer=open_sealer(settings), on_step=on_step)


def open_registry(settings: Settings) -> ModelRegistry:
    """The model registry."""
    from oncotwin.adapters.mlflow_registry import MlflowRegistry

    return MlflowRegistry(settings.mlflow_uri)


def open_signer(settings: Settings) -> Signer:
    """The institutions' signing keys."""
    from oncotwin.adapters.signing import SigningKeys

    return SigningKeys(settings.signing_folder)


def open_checkpoint_registry(settings: Settings) -> CheckpointRegistry:
    """Where checkpoints are kept besides the store."""
    from oncotwin.adapters.mlflow_checkpoints import MlflowCheckpoints

    return MlflowCheckpoints(settings.mlflow_uri)


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


def champion(settings: Settings) -> str:
    """The version that is believed: the store's word; before its first commit the registry's alias, or the papers'."""
    store = open_store(settings)
    try:
        found = store.champion()
    finally:
        store.close()
    return found or open_registry(settings).alias("champion") or LITERATURE


def load_bundle(settings: Settings, version: str) -> tuple[str, ModelBundle]:
    """A registered bundle by version or alias; ``champion`` is the store's (`champion`).

    Raises:
        ModelError: no such version.
    """
    if version == "champion":
        version = champion(settings)
    if version == LITERATURE:
        return LITERATURE, ModelBundle({})
    return open_registry(settings).load(version)


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


def open_lag_book(settings: Settings) -> LagBook:
    """Where it is written down since when the lag has not shrunk; the store must have this release's schema."""
    from oncotwin.adapters.sql_store.lag_book import open_lag_book as open_book

    return open_book(settings.store_url)


def lag_gauge(settings: Settings) -> Callable[[int], None]:
    """Shows the lag as a metric, where there is Ray to show it."""
    if settings.ray == "in-process":
        return lambda lag: None
    from oncotwin.adapters.ray_lag import lag_gauge as ray_gauge

    return ray_gauge()


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


def shard_factory(settings: Settings, version: str) -> ShardFactory:
    """What builds shards of a version.

    Raises:
        ModelError: no such version.
    """
    name, bundle = load_bundle(settings, version)
    # Folding needs no forecast layer; without it the bundle is small enough to travel with an actor's constructor,
    # which Ray must be able to run again when the actor is restarted.
    slim = replace(
        bundle, models={key: replace(prior, forecast_calibration={}) for key, prior in bundle.models.items()}
    )
    return ShardFactory(settings, slim.to_json(), name)


def open_host(settings: Settings, version: str) -> TwinHost:
    """Where the twins live: Ray actors, or this process.

    Raises:
        ConfigurationError: the Ray cluster cannot be reached.
    """
    from oncotwin.adapters.garbage import collect_rarely

    # With Ray too: what a commit group is made of passes through this process as thousands of small objects.
    collect_rarely()
    factory = shard_factory(settings, version)
    if settings.ray == "in-process":
        from oncotwin.adapters.local_host import LocalHost

        return LocalHost(factory(factory.version), lambda other: shard_factory(settings, other)(other))
    from oncotwin.adapters.ray_cluster import connect
    from oncotwin.adapters.ray_host import RayHost

    connect(settings.ray, settings.ray_cpus)
    return RayHost(
        factory, factory.version, twins_per_actor=settings.twins_per_actor, idle_actor_s=settings.idle_actor_s,
        fold_timeout_s=settings.fold_timeout_s,
        make_factory=lambda other: shard_factory(settings, other),
    )


def clock_skew(settings: Settings) -> timedelta:
    """How far a clinical time may lie in the future."""
    return timedelta(seconds=settings.clock_skew_s)

