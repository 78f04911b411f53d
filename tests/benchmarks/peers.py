"""Environments of their own for the programs we are compared with, whose packages clash with ours."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PEERS = REPOSITORY / "var" / "peers"
INTERPRETER = "PEER_PYTHON"
"""Environment variable that names the interpreter for peers that want a later Python than ours."""


def peer_python(name: str, requirements: Sequence[str], at_least: tuple[int, int] = (3, 11)) -> Path:
    """The interpreter of a peer's environment, made at its first use and when its requirements change.

    Args:
        name: of the folder in var/peers.
        requirements: pinned packages, such as `dynamax==1.0.1`; those packages that they ask for are not pinned.
        at_least: the Python that the peer wants; the one named by `PEER_PYTHON`, ours, or one found on this machine.
    Returns:
        Path of the interpreter; run a script with it.
    Raises:
        LookupError: no such Python is here.
        subprocess.CalledProcessError: the packages cannot be installed.
    """
    folder = PEERS / name
    python = folder / "bin" / "python"
    stamp = folder / "requirements.sha256"
    digest = hashlib.sha256("\n".join(sorted(requirements)).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    maker = interpreter(at_least)
    print(f"installing {', '.join(requirements)} into var/peers/{name} ...", file=sys.stderr, flush=True)
    subprocess.run([maker, "-m", "venv", "--clear", str(folder)], check=True)
    uv = Path(sys.executable).parent / "uv"
    install = [str(uv), "pip", "install", "--quiet", "--python", str(python)] if uv.exists() else _pip(python)
    subprocess.run([*install, *requirements], check=True)
    stamp.write_text(digest)
    return python


def interpreter(at_least: tuple[int, int]) -> str:
    """A Python of at least some version that can make environments.

    Raises:
        LookupError: none was found, or the one named by `PEER_PYTHON` will not do.
    """
    named = os.environ.get(INTERPRETER)
    for candidate in [named] if named else _candidates():
        if _will_do(candidate, at_least):
            return candidate
    wanted = ".".join(map(str, at_least))
    raise LookupError(
        f"a peer wants Python {wanted} or later with the venv module, and {named or 'none of those on this machine'} "
        f"will not do: name one, as in {INTERPRETER}=/path/to/python{wanted}"
    )


def _candidates() -> Iterator[str]:
    """Ours first, then what the path and pyenv hold, from the oldest on: peers lag behind new versions."""
    yield sys.executable
    names = [f"python3.{minor}" for minor in range(11, 20)]
    yield from filter(None, map(shutil.which, [*names, "python3"]))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [path for path in pyenv.glob("3.*/bin/python") if path.parts[-3].replace(".", "").isdigit()]
    yield from map(str, sorted(found, key=lambda path: [int(part) for part in path.parts[-3].split(".")]))


def _will_do(python: str, at_least: tuple[int, int]) -> bool:
    check = f"import sys, venv, ensurepip; sys.exit(sys.version_info < {at_least})"
    try:
        return subprocess.run([python, "-c", check], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def _pip(python: Path) -> list[str]:
    """The slower way, where uv cannot be had."""
    return [str(python), "-m", "pip", "install", "--quiet"]
