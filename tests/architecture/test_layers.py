"""The layers of ARCHITECTURE: who may import whom, and what the core may not do at all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

REPOSITORY = Path(__file__).parents[2]
CORE = ("domain", "ports", "filters", "models", "spatial", "twin", "decision")
CLOCKS = {"now", "utcnow", "today"}
SEEDED = {"Generator", "SeedSequence", "Philox", "PCG64", "BitGenerator"}


def core_modules() -> list[Path]:
    """Every module of the functional core."""
    return [path for room in CORE for path in sorted((REPOSITORY / "platform/oncotwin" / room).rglob("*.py"))]


def test_imports_go_down_the_layers_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    status = lint_imports(config_filename=str(REPOSITORY / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("path", core_modules(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_core_reads_no_clock_and_rolls_no_unseeded_dice(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = ast.unparse(node.func)
            assert not (node.func.attr in CLOCKS and "date" in call), f"line {node.lineno} reads the clock: {call}"
            if "random." in call and call.startswith(("np.", "numpy.")):
                assert node.func.attr in SEEDED or node.args, f"line {node.lineno}: unseeded randomness: {call}"
            assert call not in ("np.random.seed", "numpy.random.seed"), f"line {node.lineno} seeds for everybody"
