"""A shard is a cache: what it has forgotten it reads from the store, and what the store cannot have it refuses."""

from __future__ import annotations

import pytest

from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import HostLostError
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.ports.twin_host import Delivery
from oncotwin.testing.memory_history import MemoryHistory
from oncotwin.testing.patients import accepted, diameter
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import bind
from oncotwin.twin.shard import TwinShard

TWIN = "H1/p1"


def test_a_version_that_only_a_lost_memory_had_is_refused_and_what_is_held_stays() -> None:
    binding = bind("1", ModelBundle({}), [TumourBurden()], UnscentedFilter(), DriftSettings())
    events = accepted([diameter(str(n), 40.0 * n, 20.0 + n) for n in range(3)])
    shard = TwinShard(binding, MemoryHistory().reader())
    first = Delivery(TWIN, 0, 0, 0, (events[0],))
    second = Delivery(TWIN, 0, 1, 0, (events[1],))
    third = Delivery(TWIN, 0, 2, 0, (events[2],))
    with pytest.raises(HostLostError, match="version 1 awaits its commit"):
        # Its first delivery was folded by a process that is gone, and is not committed yet.
        shard.fold([second])
    shard.fold([first])
    shard.fold([second])
    with pytest.raises(HostLostError):
        shard.fold([Delivery(TWIN, 0, 1, 0, (events[2],))])
    [found] = shard.fold([third])
    [whole] = TwinShard(binding, MemoryHistory().reader()).fold([Delivery(TWIN, 0, 0, 0, tuple(events))])
    assert found.snapshots[-1].digest == whole.snapshots[-1].digest
