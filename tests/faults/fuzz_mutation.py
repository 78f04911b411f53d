"""Changes to an input: at random in its bytes, and at random in its JSON, so that what is inside is reached too."""

from __future__ import annotations

import json
import random
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 0.1, -0.0, 1e308, 1e-320,
    1.5e-7, "", " ", "\x00", "é", "e\u0301", "\u202e", "\ud800", "a" * 300, "2024-02-30T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:60Z", "2024-01-01", "NaN", "1e999", "<5", "../..", "%2e%2e/", "#00", "00" * 32, [], {},
    [[]], {"": {}}, [0] * 50,
)
PIECES: tuple[bytes, ...] = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"\xff",
    b"\xed\xa0\x80", b"\x00", b"\x00" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"[" * 40, b"{" * 40,
    b'{"a":' * 20, b"]", b"}", b",",
    b'"', b"\\", b"\n", b"\r\n", b"\x1e", b"true", b"null", b'"id":"1",',
    b"\x1f\x8b", b"(\xb5/\xfd", b"OTWN\x02", b"\x00sealed1",
)


def mutate(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """One changed copy; ``other`` lends pieces."""
    found = _mutate_json(data, rng) if rng.random() < 0.5 else None
    if found is None:
        found = data
        for _ in range(1 + int(rng.expovariate(0.7))):
            found = _mutate_bytes(found, rng, other)
    return found


def _mutate_bytes(data: bytes, rng: random.Random, other: bytes) -> bytes:
    at = rng.randint(0, len(data))
    end = min(len(data), at + 1 + int(rng.expovariate(0.2)))
    match rng.randrange(8):
        case 0:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 1:
            flipped = bytes([data[at] ^ (1 << rng.randrange(8))]) if at < len(data) else b""
            return data[:at] + flipped + data[at + 1 :]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:at] + data[at:end] * rng.choice((2, 3, 100)) + data[end:]
        case 4:
            return data[:at] + rng.choice(PIECES) + data[at:]
        case 5:
            return data[:at]
        case 6:
            begin = rng.randint(0, len(other))
            return data[:at] + other[begin : begin + rng.randint(0, 64)] + data[end:]
        case _:
            # Lengths and counts lie in little-endian words.
            return data[:at] + rng.randrange(1 << 32).to_bytes(4, "little") + data[at + 4 :]


def _mutate_json(data: bytes, rng: random.Random) -> bytes | None:
    """Change one place in the JSON of one of the lines, or in the header of packed bytes; None where there is none."""
    begin, end = data.find(b"{"), data.rfind(b"}") + 1
    if not 0 <= begin < end:
        return None
    lines = data[begin:end].split(b"\n")
    chosen = rng.randrange(len(lines))
    try:
        content = json.loads(lines[chosen])
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    for _ in range(1 + int(rng.expovariate(1.0))):
        _change(content, rng)
    text = json.dumps(content, ensure_ascii=rng.random() < 0.5, separators=(",", ":")).encode("utf-8", "surrogatepass")
    lines[chosen] = text
    head = data[:begin]
    if data[:4] == b"OTWN" and len(head) == 9:
        head = head[:5] + len(text).to_bytes(4, "little")
    return head + b"\n".join(lines) + data[end:]


def _change(content: dict[str, Any], rng: random.Random) -> None:
    """Put something odd, or something from elsewhere, in one place."""
    places: list[tuple[Any, Any]] = []
    pending: list[Any] = [content]
    while pending and len(places) < 2_000:
        one = pending.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        for key in keys:
            places.append((one, key))
            if isinstance(one[key], dict | list):
                pending.append(one[key])
    if not places:
        content["id"] = rng.choice(ODD)
        return
    holder, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            del holder[key]
        case 1:
            source, name = rng.choice(places)
            # A copy: a list within itself cannot be written.
            holder[key] = json.loads(json.dumps(source[name])) if name in _keys(source) else None
        case 2 if isinstance(holder, dict):
            holder[rng.choice(("id", "extra", "é", "", key + "x"))] = holder[key]
        case 3 if type(holder[key]) in (int, float) and abs(holder[key]) < 1e300:
            holder[key] = rng.choice((-holder[key], holder[key] * 1e6, holder[key] + 1, holder[key] / 3))
        case _:
            holder[key] = json.loads(json.dumps(rng.choice(ODD)))


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))
