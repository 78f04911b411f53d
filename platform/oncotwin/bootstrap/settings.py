"""Where things live, in one settings object: file, environment (``ONCOTWIN_...``) or flags, later ones winning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from oncotwin.domain.bundle import FILTERS
from oncotwin.domain.errors import ConfigurationError

CONFIG_VARIABLE = "ONCOTWIN_CONFIG"
"""Environment variable that names the settings file; without it ``oncotwin.toml`` of the working folder is read."""

BUILT_IN_MODELS = ("oncotwin.models.tumour_burden:TumourBurden", "oncotwin.models.androgen:AndrogenSuppression")


class Settings(BaseSettings):
    """Settings of one installation; every field is an environment variable with the prefix ``ONCOTWIN_``."""

    model_config = SettingsConfigDict(env_prefix="ONCOTWIN_", extra="forbid", frozen=True)

    home: Path = Path("var")
    """Folder under which the embedded log, store, registry and reports live unless set otherwise."""
    log: str = ""
    """Event log: ``embedded:DIR`` or ``kafka://HOST:PORT[,HOST:PORT]``; by default embedded under ``home``."""
    log_options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the Kafka client as they are: ``security_protocol``, ``ssl_cafile``, ``sasl_mechanism`` ..."""
    log_retention_days: float = Field(default=90.0, gt=0)
    """After so many days the brokers drop what a topic of ours holds; for topics that do not exist yet."""
    topic: str = "events"
    """Topic that carries the hospital's events."""
    partitions: int = Field(default=8, ge=1, le=1024)
    """Partitions of a topic that does not exist yet."""
    store: str = ""
    """Twin store: ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST/DB``; by default SQLite under ``home``."""
    keys: str = ""
    """Key store, where patients' keys lie: ``sqlite:///PATH`` or a PostgreSQL address, never the store's own and in no
    backup of it; by default SQLite under ``home``."""
    keys_master: Path | None = None
    """File of 32 random bytes under which every key in the key store is wrapped; by default keys lie as they are."""
    ray: str = "local"
    """Twins' hosts: ``local`` (Ray on this machine), an address of a Ray cluster, or ``in-process`` (no Ray)."""
    ray_cpus: int | None = Field(default=None, ge=1)
    """Processors of a local Ray; by default all."""
    twins_per_actor: int = Field(default=1, ge=1, le=100_000)
    """1 gives one named Ray actor for each patient; 64 to 1,000 give density."""
    idle_actor_s: float = Field(default=900.0, gt=0)
    """An actor that was not used for this long is put to sleep; its twins wake from the store."""
    fold_timeout_s: float = Field(default=120.0, gt=0)
    """How long an actor may take for one call, beside half a second for each twin in it; one that hangs is ended."""
    mlflow: str = ""
    """MLflow tracking URI; by default SQLite under ``home``."""
    arrays: list[str] = Field(default_factory=list)
    """Prefixes of array stores that a claim check may name."""
    cohorts: Path | None = None
    """Folder of the reference cohorts (``*.json``) that sections and slides are compared with; none for no comparison.
    """
    sources: dict[str, str] = Field(default_factory=dict)
    """Sources and the institution that each belongs to; a source that is not listed is bound to the institution of
    its first accepted event."""
    models: list[str] = Field(default_factory=lambda: list(BUILT_IN_MODELS))
    """Models as ``package.module:Class``, in order of preference; a user's own model is one more line."""
    filter: str = FILTERS[0]
    """Filter that follows the twins of the next version that is calibrated; a version keeps its own."""
    members: int | None = None
    """Members of an ensemble, or particles; by default the filter's own number."""
    batch_events: int = Field(default=20_000, ge=1)
    """Most events of one flow run."""
    batch_seconds: float = Field(default=30.0, gt=0)
    """Longest time that one flow run drains the log."""
    commit_events: int = Field(default=1_000, ge=1)
    """Most events of one commit group: one transaction."""
    poll_seconds: float = Field(default=0.2, gt=0)
    """How long a read waits for the first event."""
    lease_seconds: float = Field(default=10.0, gt=0)
    """How long a worker may keep its partitions without renewing them."""
    worker: str = ""
    """Name of this worker in leases; by default host name and process id."""
    clock_skew_s: float = Field(default=300.0, ge=0)
    """How far in the future a clinical time may lie before the event is refused."""
    gap_seconds: float = Field(default=3600.0, ge=0)
    """How long numbers of a source may be missing before its institution is alerted."""
    max_lag_events: int = Field(default=100_000, ge=0)
    """How far the log may be ahead of the store before an intake waits; 0 for no bound."""
    lag_seconds: float = Field(default=300.0, gt=0)
    """How long the lag may fail to shrink before somebody is told."""
    signing_keys: Path | None = None
    """Folder of the institutions' signing keys and of those that are trusted; by default ``keys`` under ``home``."""
    checkpoint_entries: int = Field(default=20_000, ge=1)
    """Entries of the audit trail after which a worker signs its chains."""
    checkpoint_seconds: float = Field(default=3600.0, gt=0)
    """Longest time that a worker goes on before it signs what was added to the chains."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags win over the environment, which wins over the file."""
        path = Path(os.environ.get(CONFIG_VARIABLE, "oncotwin.toml"))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path)

    @field_validator("log")
    @classmethod
    def _log_known(cls, value: str) -> str:
        if value and not value.startswith(("embedded:", "kafka://")):
            raise ValueError("log must be 'embedded:DIR' or 'kafka://HOST:PORT'")
        return value

    @field_validator("filter")
    @classmethod
    def _filter_known(cls, value: str) -> str:
        if value not in FILTERS:
            raise ValueError(f"filter must be one of {', '.join(FILTERS)}")
        return value

    @field_validator("store")
    @classmethod
    def _store_known(cls, value: str) -> str:
        if value and not value.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("store must be 'sqlite:///PATH' or 'postgresql://USER@HOST/DB'")
        return value

    @field_validator("keys")
    @classmethod
    def _keys_known(cls, value: str) -> str:
        if value and not value.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("keys must be 'sqlite:///PATH' or 'postgresql://USER@HOST/DB'")
        return value

    @property
    def log_url(self) -> str:
        """The event log, default filled in."""
        return self.log or f"embedded:{self.home / 'log'}"

    @property
    def store_url(self) -> str:
        """The twin store, default filled in."""
        return self.store or f"sqlite:///{self.home / 'store.sqlite'}"

    @property
    def keys_url(self) -> str:
        """The key store, default filled in."""
        return self.keys or f"sqlite:///{self.home / 'keys' / 'keys.sqlite'}"

    @property
    def signing_folder(self) -> Path:
        """The folder of signing keys, default filled in."""
        return self.signing_keys or self.home / "keys"

    @property
    def mlflow_uri(self) -> str:
        """The tracking URI, default filled in."""
        return self.mlflow or f"sqlite:///{self.home / 'mlflow.sqlite'}"


def load_settings(**flags: Any) -> Settings:
    """Settings of file, environment and flags; a flag that is None was not given.

    Raises:
        ConfigurationError: a value is of the wrong kind or a name is unknown, with what to write instead.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named and not Path(named).is_file():
        raise ConfigurationError(f"{CONFIG_VARIABLE} names {named}, which is no file; write it or unset the variable")
    try:
        settings = Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(
            f"settings are not valid: {problems}; see docs/configuration.md for names and values"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"settings file cannot be read: {error}") from error
    # Actors and flow runs have other working folders: what names a local path is made absolute once.
    master = None if settings.keys_master is None else settings.keys_master.absolute()
    settings = settings.model_copy(update={"home": settings.home.absolute(), "keys_master": master})
    if settings.keys_url == settings.store_url:
        raise ConfigurationError(
            f"keys and store are both {settings.store_url}: a backup of the store would hold the keys, and an erasure "
            "would not reach it; give the keys a database of their own"
        )
    return settings
