"""Decoding of foreign files in a process of its own, under limits that the kernel enforces.

A decoder that is led astray by its input then costs a process of bounded memory and time, and comes back as a message.
The child gets no secret of ours (its environment is made new), leaves no core file, writes no file longer than it
should, and is killed, by its own number, when the clock runs out.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oncotwin.domain.claim import ArrayError

_REPLY_BYTES = 1 << 20
_MESSAGE_LETTERS = 300
_KEPT = ("PATH", "PYTHONPATH", "LANG", "TMPDIR")


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What a decoding may cost."""

    memory_bytes: int = 4 << 30
    """Address space, which is more than what is resident."""
    cpu_s: int = 600
    wall_s: float = 900.0
    file_bytes: int = 64 << 30
    """Longest file that may be written."""


def run_bounded(
    function: str, arguments: Mapping[str, Any], where: str, limits: ProcessLimits | None = None
) -> dict[str, Any]:
    """Call a function in a fresh process under limits.

    Args:
        function: ``package.module:name`` of ours: it takes `arguments` by name and returns a JSON object. What is
            large it writes into a file whose name is among its arguments.
        arguments: plain JSON values.
        where: what is decoded, for messages.
        limits: what it may cost.
    Returns:
        The function's answer.
    Raises:
        ArrayError: the function's own, word for word; `cannot_decode` for any other error of it; `out_of_memory`,
            `out_of_time` or `decoder_died` if a limit ended it.
    """
    bounds = limits or ProcessLimits()
    request = json.dumps({"function": function, "arguments": dict(arguments), "limits": _as_numbers(bounds)})
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    # A thread pool of a numerical library reserves address space for each thread, used or not.
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment, start_new_session=True,
    ) as child:  # fmt: skip
        try:
            reply, _ = child.communicate(request.encode(), timeout=bounds.wall_s)
        except subprocess.TimeoutExpired:
            raise _ended("out_of_time", f"was not decoded within {bounds.wall_s:g} s", where) from None
        finally:
            if child.poll() is None:
                child.kill()
    return _answer(reply, child.returncode, bounds, where)


def _answer(reply: bytes, exit_code: int, bounds: ProcessLimits, where: str) -> dict[str, Any]:
    """Read a child's reply with the distrust that its input deserves."""
    if exit_code == -signal.SIGXCPU or (exit_code == -signal.SIGKILL and not reply):
        raise _ended("out_of_time", f"took more than {bounds.cpu_s} s of processor time", where)
    try:
        content = json.loads(reply[:_REPLY_BYTES])
    except ValueError:
        content = None
    if exit_code or not isinstance(content, dict):
        raise _ended("decoder_died", f"ended its decoder (exit code {exit_code})", where)
    error = content.get("error")
    if error is None:
        return dict(content["answer"])
    if error["reason_code"] == "out_of_memory":
        raise _ended("out_of_memory", f"takes more than {bounds.memory_bytes:,} bytes to decode", where)
    raise ArrayError(error["reason_code"], error["reason"], error["where"] or where, error["remedy"])


def _ended(code: str, what: str, where: str) -> ArrayError:
    return ArrayError(code, what, where, "send a smaller or an undamaged file, or raise the limit")


def _as_numbers(bounds: ProcessLimits) -> dict[str, int]:
    return {"memory_bytes": bounds.memory_bytes, "cpu_s": bounds.cpu_s, "file_bytes": bounds.file_bytes}


def _child() -> None:
    """Read one request, put on the limits, answer it."""
    request = json.loads(sys.stdin.buffer.read())
    limits = request["limits"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"],) * 2)
    # The soft limit's signal ends the process; the hard one, a second later, ends what ignores it.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"],) * 2)
    # Only what we send is a reply: whatever a library prints must not be taken for one.
    out = os.dup(1)
    os.dup2(2, 1)
    module, _, name = request["function"].partition(":")
    try:
        reply = {"answer": getattr(importlib.import_module(module), name)(**request["arguments"])}
    except ArrayError as error:
        reply = _error(error.reason_code, error.reason, error.where, error.remedy)
    except MemoryError:
        reply = _error("out_of_memory", "")
    except Exception as error:
        said = f"cannot be decoded: {type(error).__name__}: {error}"[:_MESSAGE_LETTERS]
        reply = _error("cannot_decode", said, "", "send a file that its own programs can open")
    with os.fdopen(out, "wb") as pipe:
        pipe.write(json.dumps(reply).encode())


def _error(code: str, reason: str, where: str = "", remedy: str = "") -> dict[str, dict[str, str]]:
    return {"error": {"reason_code": code, "reason": reason, "where": where, "remedy": remedy}}


if __name__ == "__main__":
    _child()
