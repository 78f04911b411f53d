"""States of filters as bytes and back: the same state always gives the same bytes, on any machine.

Layout: one line of JSON with sorted keys that names the kind of state and each array's shape and type, a newline, then
the arrays in that order, little-endian, C-contiguous.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import numpy as np

from oncotwin.domain.errors import ModelError
from oncotwin.filters.base import read_only
from oncotwin.filters.ensemble_state import EnsembleState
from oncotwin.filters.particle import ParticleState
from oncotwin.filters.unscented import GaussianState

State = GaussianState | EnsembleState | ParticleState
_KINDS: dict[str, type[Any]] = {"gaussian": GaussianState, "ensemble": EnsembleState, "particle": ParticleState}
_TYPES = {"<f8", "<i8", "<u8"}


def to_bytes(state: State) -> bytes:
    """Canonical bytes of a state."""
    [kind] = [name for name, known in _KINDS.items() if isinstance(state, known)]
    arrays = {field.name: np.ascontiguousarray(getattr(state, field.name)) for field in fields(state)}
    arrays = {name: array.astype(array.dtype.newbyteorder("<"), copy=False) for name, array in arrays.items()}
    shapes = {name: [array.dtype.str, *array.shape] for name, array in arrays.items()}
    head = json.dumps({"arrays": shapes, "kind": kind}, sort_keys=True, separators=(",", ":"))
    return head.encode() + b"\n" + b"".join(arrays[name].tobytes() for name in sorted(arrays))


def from_bytes(content: bytes) -> State:
    """The state that `to_bytes` wrote.

    Raises:
        ModelError: the bytes are no state, or were cut short.
    """
    head, newline, body = content.partition(b"\n")
    try:
        described = json.loads(head)
        kind, shapes = _KINDS[described["kind"]], described["arrays"]
        expected = {field.name for field in fields(kind)}
        shapes_fit = all(
            kind_of in _TYPES and len(shape) <= 3 and all(type(n) is int and 0 <= n <= len(body) for n in shape)
            for kind_of, *shape in shapes.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"filter state: no readable head ({error}); restore an earlier snapshot") from error
    if set(shapes) != expected or not shapes_fit:
        raise ModelError(f"filter state: arrays {sorted(shapes)} where {sorted(expected)} belong; migrate the snapshot")
    sizes = {name: 8 * math.prod(shape) for name, (_, *shape) in shapes.items()}
    if not newline or sum(sizes.values()) != len(body):
        raise ModelError(
            f"filter state: {len(body)} bytes where {sum(sizes.values())} belong; restore an earlier snapshot"
        )
    arrays, at = {}, 0
    for name in sorted(shapes):
        kind_of, *shape = shapes[name]
        arrays[name] = np.frombuffer(body, np.dtype(kind_of), sizes[name] // 8, at).reshape(shape).copy()
        read_only(arrays[name])
        at += sizes[name]
    state: State = kind(**arrays)
    return state
