"""Environments of their own for the programs we are compared with, whose packages clash with ours."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PEERS = REPOSITORY / "var" / "peers"


def peer_python(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of a peer's environment, made at its first use and when its requirements change.

    Args:
        name: of the folder in var/peers.
        requirements: pinned packages, such as `dynamax==1.0.1`; those packages that they ask for are not pinned.
    Returns:
        Path of the interpreter; run a script with it.
    Raises:
        subprocess.CalledProcessError: the packages cannot be installed.
    """
    folder = PEERS / name
    python = folder / "bin" / "python"
    stamp = folder / "requirements.sha256"
    digest = hashlib.sha256("\n".join(sorted(requirements)).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"installing {', '.join(requirements)} into var/peers/{name} ...", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    uv = Path(sys.executable).parent / "uv"
    install = [str(uv), "pip", "install", "--quiet", "--python", str(python)] if uv.exists() else _pip(python)
    subprocess.run([*install, *requirements], check=True)
    stamp.write_text(digest)
    return python


def _pip(python: Path) -> list[str]:
    """The slower way, where uv cannot be had."""
    return [str(python), "-m", "pip", "install", "--quiet"]
