"""Patients made up for tests of the forecast layer: a few events each, drawn from the trend model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from oncotwin.domain.header import EventHeader
from oncotwin.domain.observation import Observation
from oncotwin.domain.treatment import Treatment
from oncotwin.twin.timeline import Item

START = datetime(2020, 1, 1, tzinfo=UTC)


def header(patient: str, day: float, name: str, kind: str = "lesion.measured") -> EventHeader:
    """A header of one institution."""
    return EventHeader(
        "urn:test", f"{patient}/{name}", kind, "inst", patient, START + timedelta(days=day), "instant", None, None,
        "final", f"{patient}-{name}", None,
    )


def volume(patient: str, day: float, value: float, *, target: str = "T", name: str = "") -> Observation:
    """A measured volume."""
    return Observation(header(patient, day, name or f"v{day}{target}"), "volume", target, value, "mm3")


def too_small(patient: str, day: float, limit: float, *, target: str = "T") -> Observation:
    """A volume below a limit."""
    return Observation(
        header(patient, day, f"s{day}{target}"), "volume", target, None, "mm3", censoring="left", limit=limit
    )


def treated(patient: str, day: float, agent: str, action: str = "on", stop: float | None = None) -> Treatment:
    """A treatment event."""
    h = header(patient, day, f"t{day}{agent}{action}", "treatment.administered")
    end = None if stop is None else START + timedelta(days=stop)
    return Treatment(h, agent, action, None, None, None, h.time, end, None)  # type: ignore[arg-type]


def population(n: int, *, n_visits: int = 8, seed: int = 0, agents: tuple[str, ...] = ()) -> dict[str, list[Item]]:
    """Patients whose log volume follows the trend model: trend 0.02 a day, treatment takes 0.03 off, noise 0.1."""
    random = np.random.default_rng(seed)
    found: dict[str, list[Item]] = {}
    for index in range(n):
        patient = f"p{index:03d}"
        agent = agents[index % len(agents)] if agents else ""
        trend = random.normal(0.02, 0.005) - (0.03 * (1 + agents.index(agent)) if agent else 0.0)
        level, day = random.normal(5.0, 0.5), 0.0
        items: list[Item] = [treated(patient, 0.0, agent)] if agent else []
        for visit in range(n_visits):
            items.append(volume(patient, day, float(np.exp(level + random.normal(0.0, 0.1))), name=f"v{visit}"))
            step = float(random.integers(5, 12))
            level += trend * step + random.normal(0.0, 0.01 * np.sqrt(step))
            day += step
        found[f"inst/{patient}"] = sorted(items, key=lambda i: (i.header.time, i.header.source, i.header.event_id))
    return found
