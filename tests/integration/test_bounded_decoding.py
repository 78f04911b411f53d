"""Decoding in a process of its own: each way to go astray comes back as a message, within its limit."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from oncotwin.adapters.arrays.bounded import ProcessLimits, run_bounded
from oncotwin.domain.claim import ArrayError

SMALL = ProcessLimits(memory_bytes=1 << 30, cpu_s=2, wall_s=30, file_bytes=1 << 20)


def answer(value: int) -> dict[str, Any]:
    """What a decoder does."""
    print("a library may print")
    return {"value": value, "secret": os.environ.get("ONCOTWIN_SECRET"), "pid": os.getpid()}


def astray(how: str) -> dict[str, Any]:
    """What a decoder does that was led astray."""
    if how == "memory":
        return {"n": len(bytearray(2 << 30))}
    if how == "spins":
        while True:
            pass
    if how == "sleeps":
        time.sleep(60)
    if how == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "rejects":
        raise ArrayError("bad_chunk", "the chunk is odd", "a/0", "write it again")
    if how == "writes":
        with (
            open(os.devnull, "rb"),
            open(os.path.join(os.environ.get("TMPDIR", "/tmp"), f"{os.getpid()}"), "wb") as out,
        ):
            os.unlink(out.name)
            out.write(bytes(2 << 20))
    raise ValueError("no such format")


def test_the_answer_comes_back_and_the_secrets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCOTWIN_SECRET", "x")
    found = run_bounded(f"{__name__}:answer", {"value": 3}, "a.jpg", SMALL)
    assert found["value"] == 3
    assert found["secret"] is None
    assert found["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("memory", "out_of_memory"),
        ("spins", "out_of_time"),
        ("crashes", "decoder_died"),
        ("rejects", "bad_chunk"),
        ("writes", "cannot_decode"),
        ("otherwise", "cannot_decode"),
    ],
)
def test_what_goes_astray_is_a_message(how: str, code: str) -> None:
    with pytest.raises(ArrayError) as caught:
        run_bounded(f"{__name__}:astray", {"how": how}, "a.jpg", SMALL)
    assert caught.value.reason_code == code
    assert caught.value.where == ("a/0" if how == "rejects" else "a.jpg")


def test_what_waits_is_killed() -> None:
    began = time.monotonic()
    with pytest.raises(ArrayError, match="within 3 s"):
        run_bounded(f"{__name__}:astray", {"how": "sleeps"}, "a.jpg", ProcessLimits(wall_s=3))
    assert time.monotonic() - began < 30
