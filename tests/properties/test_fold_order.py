"""One set of events, one posterior: whatever the order, batching, doubling or sleep on the way."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oncotwin.domain.amendment import Accepted
from oncotwin.domain.bundle import FilterChoice, ModelBundle
from oncotwin.filters.choice import make_filter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.twin_host import Delivery
from oncotwin.testing.memory_history import MemoryHistory
from oncotwin.testing.patients import accepted, consent, correction, diameter, treatment
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import Binding, bind
from oncotwin.twin.shard import TwinShard
from oncotwin.twin.state import digest, to_bytes

CHOICES = (
    FilterChoice(), FilterChoice("ensemble", {"n_members": 12, "inflation": 1.05}),
    FilterChoice("square-root-ensemble", {"n_members": 10}), FilterChoice("particle", {"n_particles": 30}),
)


@pytest.fixture(scope="module", params=CHOICES, ids=lambda choice: choice.name)
def binding(request: pytest.FixtureRequest) -> Binding:
    return bind("1", ModelBundle({}), [TumourBurden()], make_filter(request.param), DriftSettings())


def deliver(binding: Binding, batches: list[list[Accepted]], restart_at: int | None = None) -> str:
    """Fold batches of one twin through a shard and its history; returns the digest of the final state."""
    history = MemoryHistory()
    shard = TwinShard(binding, history.reader())
    seen: set[tuple[str, str]] = set()
    result = ""
    for number, events in enumerate(batches):
        if number == restart_at:
            shard = TwinShard(binding, history.reader())
        fresh = []
        for event in events:
            if event.header.key not in seen:
                seen.add(event.header.key)
                fresh.append(event)
        version = history.versions.get("H1/p1", 0)
        delivery = Delivery("H1/p1", 0, version, version, tuple(fresh))
        folded = shard.fold([delivery])
        history.commit([delivery], folded)
        result = folded[0].snapshots[-1].digest
    return result


def replacement(day: int, mm: int, result: str | None) -> dict[str, object]:
    """What should have been sent; it may be a report of a result that others report too."""
    content = json.loads(diameter("any", day, mm, result=result))
    return {name: content[name] for name in ("type", "time", "data")}


@st.composite
def journals(draw: st.DrawFn) -> list[bytes]:
    """Measurements of up to two lesions, some reported again with another status; treatment, corrections, consent."""
    n = draw(st.integers(2, 24))
    day = st.integers(0, 700)
    lines = [
        diameter(f"m{i}", draw(day), draw(st.integers(4, 90)), lesion=draw(st.sampled_from(["L1", "L2"])))
        for i in range(n)
    ]
    statuses = st.sampled_from(["preliminary", "final", "final", "corrected", "entered-in-error"])
    for i in range(draw(st.integers(0, 5))):
        name, status = draw(st.sampled_from(["R1", "R2", "R3"])), draw(statuses)
        lines.append(diameter(f"r{i}", draw(day), draw(st.integers(4, 90)), result=name, status=status))
    for i in range(draw(st.integers(0, 3))):
        action = draw(st.sampled_from(["on", "off"]))
        lines.append(treatment(f"t{i}", draw(day), draw(st.sampled_from(["drugA", "drugB"])), action))
    for i in range(draw(st.integers(0, 3))):
        wrong = draw(st.sampled_from([f"m{draw(st.integers(0, n - 1))}", "r0", *(["c0"] if i else [])]))
        recorded = draw(st.integers(800, 810))
        if draw(st.booleans()):
            lines.append(correction(f"c{i}", recorded, wrong, "retract"))
        else:
            new = replacement(draw(day), draw(st.integers(4, 90)), draw(st.sampled_from([None, "R1", "R2"])))
            lines.append(correction(f"c{i}", recorded, wrong, "replace", replacement=new))
    if draw(st.integers(0, 3)) == 0:
        lines.append(consent("w", draw(day), "withdrawn"))
        lines.append(consent("g", draw(day), "granted"))
    return lines


@settings(max_examples=100)
@given(lines=journals(), seed=st.integers(0, 2**32), cut=st.integers(1, 6))
def test_any_order_and_batching_gives_the_same_bits(binding: Binding, lines: list[bytes], seed: int, cut: int) -> None:
    events = accepted(lines)
    at_once = deliver(binding, [events])
    shuffled = [*events, *random.Random(seed).sample(events, len(events) // 3)]
    random.Random(seed + 1).shuffle(shuffled)
    pieces = [shuffled[i : i + cut] for i in range(0, len(shuffled), cut)]
    assert deliver(binding, pieces) == at_once
    assert deliver(binding, pieces, restart_at=len(pieces) // 2) == at_once


@pytest.mark.parametrize("k", [1, 7, 64])
def test_twins_beside_it_change_nothing(binding: Binding, k: int) -> None:
    alone = {}
    deliveries = []
    rng = random.Random(4)
    for i in range(64):
        patient = f"H1/q{i}"
        lines = [diameter(f"{i}-{j}", 30 * j, rng.uniform(5, 80), patient=patient) for j in range(1 + i % 9)]
        delivery = Delivery(patient, i, 0, 0, tuple(accepted(lines)))
        deliveries.append(delivery)
        alone[patient] = TwinShard(binding, MemoryHistory().reader()).fold([delivery])[0].snapshots[-1].digest
    shard = TwinShard(binding, MemoryHistory().reader())
    for begin in range(0, 64, k):
        for one in shard.fold(deliveries[begin : begin + k]):
            assert one.snapshots[-1].digest == alone[one.twin_id]


def test_uncommitted_deliveries_are_in_view_of_a_late_event(binding: Binding) -> None:
    """A late event that comes while the group before it is not committed yet."""
    events = accepted([diameter(f"m{i}", 30 * i, 20 + i) for i in range(8)])
    history = MemoryHistory()
    shard = TwinShard(binding, history.reader())
    first = Delivery("H1/p1", 0, 0, 0, tuple(events[4:]))
    second = Delivery("H1/p1", 0, 1, 0, tuple(events[:4]))
    shard.fold([first])
    [late] = shard.fold([second])
    assert late.snapshots[-1].digest == deliver(binding, [events])


def test_state_bytes_round_trip(binding: Binding) -> None:
    from oncotwin.twin.machine import forward_task, perform
    from oncotwin.twin.state import TwinState, from_bytes

    events = accepted([treatment("t", 10, "drugA", "on"), *(diameter(f"m{i}", 30 * i, 20 + i) for i in range(5))])
    [outcome] = perform(binding, [forward_task(TwinState("H1/p1", "1"), events)])
    data = to_bytes(outcome.states[-1])
    assert to_bytes(from_bytes(data)) == data
    assert len(digest(data)) == 64
