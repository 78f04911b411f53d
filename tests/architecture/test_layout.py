"""The layout of the tree: names, sizes, and what must not lie in it."""

from __future__ import annotations

import ast
import platform
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOTS = ("platform", "flows", "services", "tests")
SAYS_NOTHING = {"utils", "util", "common", "core", "helpers", "helper", "manager", "misc"}
N_LINES = 400
# The root of a machine, or of a home folder: a path that is right in one place only.
MACHINE_PATH = re.compile(rb"""(?:^|[\s"'=(:])/(?:work|home|Users|root|mnt)/[\w.]""")


def tracked() -> list[Path]:
    """Every file that git knows and that is there, or every file where there is no git."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False)
    if done.returncode == 0:
        return [path for name in done.stdout.decode().split("\0") if name and (path := REPOSITORY / name).is_file()]
    return [path for root in ROOTS for path in (REPOSITORY / root).rglob("*") if path.is_file()]


def modules(*roots: str) -> list[Path]:
    """Python modules under some roots."""
    return [path for path in tracked() if path.suffix == ".py" and path.relative_to(REPOSITORY).parts[0] in roots]


def test_the_source_root_does_not_shadow_the_standard_library() -> None:
    assert not (REPOSITORY / "platform" / "__init__.py").exists()
    assert platform.python_version()


def test_names_say_what_is_inside() -> None:
    bad = [
        path for path in tracked() if SAYS_NOTHING & {part.split(".")[0] for part in path.relative_to(REPOSITORY).parts}
    ]
    assert not bad


def test_files_are_short_enough_to_be_read() -> None:
    long = {
        str(path.relative_to(REPOSITORY)): n
        for path in modules(*ROOTS)
        if (n := len(path.read_text().splitlines())) > N_LINES
    }
    assert not long


def test_no_path_of_one_machine() -> None:
    found = [
        str(path) for path in tracked() if path.stat().st_size < 1_000_000 and MACHINE_PATH.search(path.read_bytes())
    ]
    assert not found


def test_no_test_may_be_skipped() -> None:
    switch = re.compile(r"mark\.(skip|xfail)|pytest\.(skip|xfail|importorskip)\(")
    own = Path(__file__)
    assert not [path for path in modules("tests") if path != own and switch.search(path.read_text())]


@pytest.mark.parametrize("path", modules("platform", "flows", "services"), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if path.parts[-2] != "versions":
        assert ast.get_docstring(tree) or not tree.body, "the module has none"
    bare = [node.name for node in _public(tree) if not ast.get_docstring(node)]
    assert not bare


def _public(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public classes and functions of a module, and the public methods of its public classes.

    A test of a shipped conformance suite says by its name what it demands.
    """
    found: list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            found.append(node)
            if isinstance(node, ast.ClassDef):
                found += [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node for node in found if not node.name.startswith(("_", "test_"))]
