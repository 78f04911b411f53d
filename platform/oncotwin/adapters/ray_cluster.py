"""Start Ray on this machine, or join a cluster."""

from __future__ import annotations

import logging
import os
from typing import Any

# Ray reads this when it is imported; a busy small machine needs longer than the default minute.
os.environ.setdefault("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "240")

import ray

from oncotwin.adapters.ray_host import NAMESPACE
from oncotwin.domain.errors import ConfigurationError

_OBJECT_STORE_BYTES = 256 * 1024 * 1024
_ATTEMPTS = 3


def connect(address: str, n_cpus: int | None = None, *, dashboard: bool = True) -> str:
    """Connect this process to Ray once; later calls do nothing.

    Args:
        address: ``local`` to start Ray here, bound to the loopback address, or a cluster's address.
        n_cpus: processors of a local Ray; all by default.
    Returns:
        Address of the dashboard, "" where there is none.
    Raises:
        ConfigurationError: the cluster does not answer.
    """
    if not ray.is_initialized():
        if address == "local":
            _start_here(n_cpus, dashboard)
        else:
            try:
                ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigurationError(
                    f"Ray at {address!r} cannot be reached ({error}); start it, or set ray = \"local\""
                ) from error
    node: Any = ray._private.worker.global_worker.node
    url = node.webui_url if dashboard and node is not None else ""
    return f"http://{url}" if url else ""


def _start_here(n_cpus: int | None, dashboard: bool) -> None:
    """Start Ray on the loopback address; a busy small machine may need a second or third try.

    Raises:
        ConfigurationError: it did not start.
    """
    # One user on loopback: no token to hand out (a cluster of several machines uses tokens); and no usage reports.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    # Ray's own metrics would name each actor, and with one twin an actor that is a patient.
    os.environ.setdefault("RAY_metric_cardinality_level", "low")
    # Ray makes its workers yield to everything else by default; here they are what everything else waits for.
    os.environ.setdefault("RAY_worker_niceness", "0")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            # Said outright: else Ray joins whatever cluster somebody has started on this machine.
            ray.init(
                address="local", num_cpus=n_cpus, namespace=NAMESPACE, include_dashboard=dashboard, log_to_driver=False,
                logging_level=logging.ERROR, _node_ip_address="127.0.0.1", dashboard_host="127.0.0.1",
                object_store_memory=_OBJECT_STORE_BYTES,
            )
            return
        except Exception as error:  # Ray says by bare Exception that its processes were not up in time
            ray.shutdown()
            if attempt == _ATTEMPTS:
                raise ConfigurationError(
                    f"Ray did not start on this machine in {_ATTEMPTS} attempts ({str(error)[:300]}); free some memory "
                    "and processor time, or set ray = \"in-process\""
                ) from error


def disconnect() -> None:
    """Leave the cluster, or stop the local Ray."""
    if ray.is_initialized():
        ray.shutdown()
