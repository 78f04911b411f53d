"""The pinned packages: complete, hashed, without an address, and free to use."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
# Offered under the Artistic License as well, which is the one we take.
CHOICE_OF_LICENCES = {"text-unidecode"}


def pins(lock: str) -> dict[str, str]:
    """Name and version of every package in a lock file."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (REPOSITORY / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_has_hashes_and_no_address(lock: str) -> None:
    text = (REPOSITORY / lock).read_text()
    assert "://" not in text
    assert not re.search(r"--(extra-)?index|--find-links", text)
    blocks = re.split(r"\n(?=\S)", text.split("\n", 2)[2])
    assert all("--hash=sha256:" in block for block in blocks if "==" in block)


def test_the_two_lock_files_agree() -> None:
    runtime, development = (pins(lock) for lock in LOCKS)
    assert runtime.items() <= development.items()


@pytest.mark.parametrize("source", ["requirements.in", "requirements-dev.in"])
def test_everything_asked_for_is_locked(source: str) -> None:
    wanted = re.findall(r"^([a-z][\w.-]*)", (REPOSITORY / source).read_text(), re.MULTILINE)
    assert set(wanted) <= set(pins(source.replace(".in", ".lock")))


def test_no_required_package_binds_its_users() -> None:
    binding = re.compile(r"\b(A?GPL|Affero|BUSL|Business Source|Commons Clause|NonCommercial|GNU General Public)", re.I)
    for name in pins("requirements.lock").keys() - CHOICE_OF_LICENCES:
        try:
            about = metadata(name)
        except PackageNotFoundError:
            continue  # for another platform or Python
        classifiers = [line for line in about.get_all("Classifier", []) if line.startswith("License")]
        stated = " ".join([*about.get_all("License-Expression", []), *classifiers])
        assert not binding.search(stated.replace("Lesser", "")), f"{name}: {stated}"
