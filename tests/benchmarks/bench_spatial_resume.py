"""A run of `oncotwin signatures` that is killed ten times at a random block and given again ends as an undisturbed one.

Of a generated slide and a generated section; every file of the result is compared byte by byte. What a kill costs is
the blocks that were under way: the seconds of all eleven runs are shown beside those of the undisturbed one.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tests.benchmarks.her2_sections import oncotwin
from tests.benchmarks.record import record

from oncotwin.adapters.arrays.phantoms import write_section_folder, write_slide
from oncotwin.spatial.section_phantom import make_section

COMMAND = "python -m tests.benchmarks.bench_spatial_resume"
N_KILLS = 10
SEED = 1


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file by its name below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def killed(stored: Path, out: Path, options: list[str], most: int, rng: random.Random) -> int:
    """Kill a run as soon as some more blocks are kept; returns how many there were, or -1 if it came to its end."""
    blocks = out.with_name(f".{out.name}.blocks")
    wanted = len(list(blocks.glob("*.block"))) + rng.randint(1, most)
    program = Path(sys.executable).with_name("oncotwin")
    command = [str(part) for part in (program, "signatures", stored, "--out", out, *options)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while len(list(blocks.glob("*.block"))) < wanted and run.poll() is None:
            time.sleep(0.002)
        if run.poll() is not None:
            return -1
        run.send_signal(signal.SIGKILL)
    return len(list(blocks.glob("*.block")))


def compare(kind: str, stored: Path, options: list[str], most: int, rng: random.Random) -> None:
    """Ten kills, one end, and every byte."""
    begin = time.perf_counter()
    oncotwin("signatures", stored, "--out", stored.with_name(f"{kind}.whole"), *options)
    whole_s = time.perf_counter() - begin
    out, at = stored.with_name(f"{kind}.killed"), []
    begin = time.perf_counter()
    for _ in range(N_KILLS):
        at.append(killed(stored, out, options, most, rng))
    oncotwin("signatures", stored, "--out", out, *options)
    seconds = time.perf_counter() - begin
    one, other = contents(stored.with_name(f"{kind}.whole")), contents(out)
    different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    n_killed = sum(n >= 0 for n in at)
    print(f"{kind}: killed {n_killed} times with {at} blocks kept; {len(one)} files, different: {different or 'none'}; "
          f"{seconds:.0f} s in all, undisturbed {whole_s:.0f} s")
    record(
        f"spatial/resume/{kind}", len(different), "1", bar="identical", is_met=not different and n_killed == N_KILLS,
        command=COMMAND, note=f"files of {len(one)} that differ from an undisturbed run's after {n_killed} kills, with "
        f"{', '.join(map(str, at))} blocks kept",
    )


def main() -> None:
    """Print and record."""
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slide(folder / "slide.zarr", 2_048, 0.25, np.random.default_rng(SEED))
        compare("slide", folder / "slide.zarr", ["--tile", "256", "--workers", "2"], 6, rng)
        write_section_folder(make_section("excluded", np.random.default_rng(SEED)), folder / "outs")
        oncotwin("section", "import", folder / "outs", "--out", folder / "section.zarr")
        compare("section", folder / "section.zarr", ["--niches", "4", "--workers", "2"], 2, rng)


if __name__ == "__main__":
    main()
