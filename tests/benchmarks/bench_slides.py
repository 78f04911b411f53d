"""Slides: what all signatures cost beside reading and decompressing alone, how memory and time grow, what workers add.

    python -m tests.benchmarks.bench_slides

A slide of the given side is laid out of mirrored pieces of one image (a picture, by default one of the data sets, or
generated H&E; the pyramid is left out), lz4 in chunks of 512 pixels and shards of 4,096. Each figure is taken in a
process of its own: CPU seconds of all its threads over the work alone, and the peak of its memory; with processes, the
peak of all of them together over their idle cluster. Nuclei are looked for in pixels of half a micrometre: a slide of
0.5 um a pixel has four times as many of those to a raw pixel as one of 0.25 um, and is measured beside it. Every run
reads the slide alone first, so that figures are compared within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image
from tests.benchmarks.record import peak_memory_mb, record

COMMAND = "python -m tests.benchmarks.bench_slides"
HE = "her2_spatial/ST-imgs/C/C5/5714_HE_BT_E1.jpg"
CHUNK, SHARD, PIECE = 512, 4_096, 2_048
MPP, COARSE = 0.25, 0.5
AT_MOST, GOAL, MEMORY_MB, LINEAR, SPEED_UP = 4.0, 2.0, 600.0, 0.10, 1.7


def write_tiled(out: Path, side: int, piece: NDArray[np.uint8], codec: str, mpp: float = MPP) -> None:
    """A slide of mirrored pieces, so that no seam shows; shard by shard."""
    rows, columns, _ = piece.shape
    group = zarr.create_group(out, zarr_format=3)
    filters = {"bitshuffle": zarr.codecs.BloscShuffle.bitshuffle, "noshuffle": zarr.codecs.BloscShuffle.noshuffle}
    array = group.create_array(
        "0", shape=(3, side, side), chunks=(3, CHUNK, CHUNK), shards=(3, SHARD, SHARD), dtype="uint8",
        compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle=filters[codec]), fill_value=255,
    )  # fmt: skip
    for top in range(0, side, SHARD):
        for left in range(0, side, SHARD):
            y, x = np.arange(top, min(top + SHARD, side)), np.arange(left, min(left + SHARD, side))
            block = piece[_mirrored(y, rows)[:, None], _mirrored(x, columns)]
            array[:, y[0] : y[-1] + 1, x[0] : x[-1] + 1] = np.moveaxis(block, 2, 0)
    axes: list[Any] = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    place = [{"type": "scale", "scale": [1.0, mpp, mpp]}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": place}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}


def _mirrored(at: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    there = at % (2 * size)
    return np.where(there < size, there, 2 * size - 1 - there)


def read_alone(slide: Path) -> None:
    """All pixels, a shard at a time."""
    array: Any = zarr.open_group(slide, mode="r", use_consolidated=False)["0"]
    for top in range(0, array.shape[1], SHARD):
        for left in range(0, array.shape[2], SHARD):
            np.asarray(array[:, top : top + SHARD, left : left + SHARD])


def measure(slide: Path, out: Path, workers: int, processes: bool, tile: int, watch: bool) -> dict[str, float]:
    """Run in a process of its own: nil workers read alone."""
    from oncotwin.adapters.arrays.engine import open_engine
    from oncotwin.adapters.arrays.slide_signatures import slide_signatures

    if workers == 0:
        with _watched(False) as found:
            read_alone(slide)
        return found
    with open_engine(workers, processes=processes) as engine:
        # Every worker has loaded what it needs: that is what an idle cluster takes.
        list(engine.run("warm")(_load, range(4 * workers)))
        with _watched(watch) as found:
            made = slide_signatures(slide, out, tile=tile, engine=engine)
    return {**found, "n_nuclei": made.n_nuclei}


def _load(number: int) -> int:
    import oncotwin.adapters.arrays.slide_signatures

    time.sleep(0.2)
    return number + len(oncotwin.adapters.arrays.slide_signatures.SCHEMA)


@contextmanager
def _watched(family: bool) -> Iterator[dict[str, float]]:
    """CPU and wall seconds, and the peak of this process' memory; of all below it too only where asked, as that takes
    processor time itself.
    """
    found: dict[str, float] = {"idle_mb": _memory_mb()}
    peak, stop = [found["idle_mb"]], threading.Event()

    def look() -> None:
        while family and not stop.wait(0.05):
            peak[0] = max(peak[0], _memory_mb())

    watcher = threading.Thread(target=look)
    watcher.start()
    begin, cpu = time.perf_counter(), _cpu_seconds()
    try:
        yield found
    finally:
        found |= {"wall_s": time.perf_counter() - begin, "cpu_s": _cpu_seconds() - cpu}
        stop.set()
        watcher.join()
        found["peak_mb"] = peak[0]
        found["own_peak_mb"] = peak_memory_mb()


def _family() -> list[int]:
    """This process and all below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = {os.getpid()}
    while more := {one for one, parent in parents.items() if parent in family} - family:
        family |= more
    return sorted(family)


def _memory_mb() -> float:
    """Resident memory, what several processes share counted once between them."""
    total = 0
    for process in _family():
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def _cpu_seconds() -> float:
    ticks = 0
    for process in _family():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def apart(
    slide: Path, folder: Path, workers: int, processes: bool = False, tile: int = SHARD, *, watch: bool = False
) -> dict[str, float]:
    """`measure` in a fresh process; with `watch` the memory of all its processes, which costs time."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "out"
    asked = [str(slide), str(out), str(workers), str(int(processes)), str(tile), str(int(watch))]
    command = [sys.executable, "-m", "tests.benchmarks.bench_slides", "--measure", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def verdict(name: str, what: str, value: float, unit: str, figure: str, holds: bool, bar: str) -> None:
    """Print and record one figure with its bar."""
    print(f"{'ok  ' if holds else 'MISS'} {what:46} {figure:>34}   bar: {bar}", flush=True)
    note = f"{what}: {figure}"
    record(f"spatial/slides/{name}", round(value, 4), unit, bar=bar, is_met=holds, command=COMMAND, note=note)


def bench(args: argparse.Namespace, folder: Path) -> None:
    """Print every figure with its bar."""
    piece = _piece(args.image)
    slide = folder / "slide.zarr"
    write_tiled(slide, args.side, piece, args.shuffle)
    print(f"slide of {args.side:,} x {args.side:,} pixels of {MPP} um, tile {args.tile:,}")
    # Once unwatched, so that kernels are compiled and the slide lies in the machine's memory.
    apart(slide, folder, 1, tile=args.tile)
    alone, one = apart(slide, folder, 0), apart(slide, folder, 1, tile=args.tile)
    ratio = one["cpu_s"] / alone["cpu_s"]
    said = f"{args.side:,} pixels a side, {args.shuffle}, {args.image.name if args.image else 'generated H&E'}"
    verdict(
        "cpu", f"all signatures against reading alone, CPU ({said})", ratio, "1",
        f"{one['cpu_s']:.1f} s / {alone['cpu_s']:.1f} s CPU = {ratio:.2f}", ratio <= AT_MOST,
        f"at most {AT_MOST:g}, goal {GOAL:g}",
    )  # fmt: skip
    two = apart(slide, folder, 2, tile=args.tile)
    peak = two["own_peak_mb"]
    bar = f"under {MEMORY_MB:g} MB"
    verdict("memory/threads", "peak memory, 2 threads", peak, "MB", f"{peak:.0f} MB", peak < MEMORY_MB, bar)
    apiece = apart(slide, folder, 2, True, args.tile, watch=True)
    over = apiece["peak_mb"] - apiece["idle_mb"]
    verdict("memory/processes", "peak memory, 2 processes, over idle", over, "MB", f"{over:.0f} MB",
            over < MEMORY_MB, bar)
    same = one["n_nuclei"] == two["n_nuclei"] == apiece["n_nuclei"]
    verdict("nuclei", "nuclei with 1 and 2 workers", one["n_nuclei"], "1", f"{one['n_nuclei']:,.0f}", same, "identical")
    coarse(args, folder, piece)
    if args.grow:
        grow(args, folder, piece)


def coarse(args: argparse.Namespace, folder: Path, piece: NDArray[np.uint8]) -> None:
    """Time and memory on a slide whose every raw pixel is looked at."""
    slide = folder / "coarse.zarr"
    write_tiled(slide, args.side, piece, args.shuffle, COARSE)
    apart(slide, folder, 1, tile=args.tile)
    alone, one = apart(slide, folder, 0), apart(slide, folder, 1, tile=args.tile)
    ratio = one["cpu_s"] / alone["cpu_s"]
    verdict(
        "coarse/cpu", f"the same at {COARSE} um a pixel ({one['n_nuclei']:,.0f} nuclei)", ratio, "1",
        f"{one['cpu_s']:.1f} s / {alone['cpu_s']:.1f} s CPU = {ratio:.2f}", ratio <= AT_MOST, f"at most {AT_MOST:g}",
    )  # fmt: skip
    for name, processes in (("threads", False), ("processes", True)):
        found = apart(slide, folder, 2, processes, args.tile, watch=processes)
        peak = found["peak_mb"] - found["idle_mb"] if processes else found["own_peak_mb"]
        what = f"peak memory, 2 {name}, {COARSE} um{', over idle' if processes else ''}"
        verdict(f"coarse/memory/{name}", what, peak, "MB", f"{peak:.0f} MB", peak < MEMORY_MB,
                f"under {MEMORY_MB:g} MB")
    shutil.rmtree(slide)


def grow(args: argparse.Namespace, folder: Path, piece: NDArray[np.uint8]) -> None:
    """The same on a small and a large slide."""
    found: list[dict[str, float]] = []
    for side in args.grow:
        slide = folder / f"{side}.zarr"
        write_tiled(slide, side, piece, args.shuffle)
        if side == args.grow[-1]:
            found.append(speed_up(slide, folder, args.tile, _size(side)))
        else:
            found.append(apart(slide, folder, 2, tile=args.tile))
        shutil.rmtree(slide)
        area = side * side / 1e9
        print(f"     {area:.2f} gigapixels: {found[-1]['wall_s']:.0f} s, {found[-1]['own_peak_mb']:.0f} MB", flush=True)
    small, large = found[0], found[-1]
    expected = small["wall_s"] * (args.grow[-1] / args.grow[0]) ** 2
    off = large["wall_s"] / expected - 1.0
    verdict(
        "linear", f"time of {_size(args.grow[-1])} against {_size(args.grow[0])}", 1.0 + off, "1",
        f"{100 * off:+.1f} % of linear", off <= LINEAR, "within 10 % of linear",
    )  # fmt: skip
    more = large["own_peak_mb"] - small["own_peak_mb"]
    verdict(
        "memory/growth", f"peak memory of {_size(args.grow[-1])} over {_size(args.grow[0])}", more, "MB",
        f"{more:+.0f} MB of {small['own_peak_mb']:.0f}", more < 0.1 * small["own_peak_mb"], "the same",
    )  # fmt: skip


def speed_up(slide: Path, folder: Path, tile: int, size: str) -> dict[str, float]:
    """Two workers against one; returns what two threads took."""
    # Both find it in the machine's memory, as far as that reaches: a disk is no faster for two.
    apart(slide, folder, 0)
    one, two = apart(slide, folder, 1, tile=tile), apart(slide, folder, 2, tile=tile)
    for kind, found in (("threads", two), ("processes", apart(slide, folder, 2, True, tile))):
        gain = one["wall_s"] / found["wall_s"]
        figure = f"{one['wall_s']:.1f} s / {found['wall_s']:.1f} s = {gain:.2f}"
        verdict(f"speed_up/{kind}", f"2 workers against 1, {kind}, {size}", gain, "1", figure, gain >= SPEED_UP,
                f"at least {SPEED_UP:g}")
    return two


def _picture() -> Path | None:
    """The real one, where the data sets are at hand."""
    data = os.environ.get("ONCOTWIN_DATA")
    return Path(data, HE) if data else None


def _size(side: int) -> str:
    return f"{side * side / 1e9:.2g} gigapixels"


def _piece(image: Path | None) -> NDArray[np.uint8]:
    if image is not None:
        Image.MAX_IMAGE_PIXELS = None
        return np.asarray(Image.open(image).convert("RGB"))
    from oncotwin.spatial.slide_phantom import DIFFICULTIES, make_phantom

    return make_phantom((PIECE, PIECE), MPP, DIFFICULTIES["mixed"], np.random.default_rng(1)).image


def main() -> None:
    """Measure, or be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--side", type=int, default=20_480)
    parser.add_argument(
        "--grow", type=int, nargs="*", default=[31_622, 100_000], metavar="SIDE", help="two sides, or none"
    )
    parser.add_argument("--tile", type=int, default=SHARD)
    parser.add_argument("--image", type=Path, default=_picture())
    parser.add_argument("--shuffle", choices=["bitshuffle", "noshuffle"], default="bitshuffle")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        slide, out, workers, processes, tile, watch = args.measure
        found = measure(Path(slide), Path(out), int(workers), processes == "1", int(tile), watch == "1")
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        bench(args, Path(folder))


if __name__ == "__main__":
    main()
