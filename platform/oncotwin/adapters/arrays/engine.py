"""Blocks side by side on Dask: threads or processes of this machine, few blocks in flight, finished blocks kept.

Memory does not grow with the number of blocks: two a worker are under way or wait to be taken. A worker keeps a block's
result on disk before it hands it over, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import pickle
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import dask
from distributed import Client, LocalCluster
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from oncotwin import __version__
from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.blocks import Run

In = TypeVar("In")
Out = TypeVar("Out")

IN_FLIGHT = 2
"""Blocks of each worker that are under way or wait to be taken."""
TRIM_EVERY = 8
"""Blocks after which a process gives freed memory back."""
_ENDING = ".block"
_DIGEST_BYTES = 32
_QUIET = {
    # A block may bring arrays along; what it costs to send them is known.
    "distributed.admin.large-graph-warning-threshold": "1GB",
    "distributed.comm.timeouts.connect": "60s",
    # It is bound there; Dask would name the machine's outer address.
    "distributed.dashboard.link": "http://127.0.0.1:{port}/status",
    # Dask asks the allocator to give every freed array back at once; the next block's are then new pages, which the
    # kernel has to clear: half as much work again for a slide. 32 MiB is the largest that is not mapped apart.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 1 << 28,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 1 << 25,
    # Memory is bounded by the blocks in flight; Dask's own spilling and killing would only get in the way.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


class Engine:
    """Applies functions to blocks; see `open_engine`."""

    def __init__(self, client: Client, n_workers: int, scratch: Path | None, progress: Progress | None) -> None:
        self._client, self._scratch, self._progress = client, scratch, progress
        self.n_workers = n_workers
        self.dashboard = str(client.dashboard_link) if find_spec("bokeh") else ""
        """Address of Dask's dashboard; "" where bokeh is not installed."""
        self._names = count()

    def run(self, step: str, fingerprint: str = "") -> Run:
        """How to apply a function to all blocks of a step.

        Args:
            step: name of the step, shown while it runs.
            fingerprint: of the input and the settings that the results rest on. With it, and with a folder to keep them
                in, results are kept until `discard`, and a later run of the same step takes them from there if
                function, block, its number and the program's version are the same. Without it nothing is kept: that is
                for functions that write files of their own.
        """

        def apply(function: Callable[[In], Out], blocks: Iterable[In], /) -> Iterator[Out]:
            return self._results(step, fingerprint, function, blocks)

        return apply

    def discard(self) -> None:
        """Remove what was kept: the whole is done."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _results(
        self, step: str, fingerprint: str, function: Callable[[In], Out], blocks: Iterable[In]
    ) -> Iterator[Out]:
        waiting: deque[Any] = deque()
        with self._bar(step, len(blocks) if isinstance(blocks, Sized) else None) as advance:
            try:
                for number, block in enumerate(blocks):
                    if len(waiting) == IN_FLIGHT * self.n_workers:
                        yield self._taken(waiting.popleft())
                        advance()
                    kept = self._place(step, fingerprint, number, function, block)
                    waiting.append(self._begun(_Work(function, block, kept)))
                while waiting:
                    yield self._taken(waiting.popleft())
                    advance()
            finally:
                for future in waiting:
                    if not isinstance(future, _Found):
                        future.cancel()
                _trim()

    def _begun(self, work: _Work) -> Any:
        """What was found on disk, or a future."""
        found = None if work.kept is None else read_kept(work.kept)
        if found is not None:
            return found
        return self._client.submit(_do, work, key=f"block-{next(self._names)}", pure=False)

    @staticmethod
    def _taken(begun: Any) -> Any:
        return begun.result if isinstance(begun, _Found) else begun.result()

    def _place(self, step: str, fingerprint: str, number: int, function: Any, block: Any) -> Path | None:
        """Where a block's result is kept: everything that it rests on is in the name."""
        if self._scratch is None or not fingerprint:
            return None
        told = pickle.dumps((step, fingerprint, __version__, number)) + cloudpickle.dumps((function, block))
        return self._scratch / (hashlib.sha256(told).hexdigest() + _ENDING)

    @contextmanager
    def _bar(self, step: str, total: int | None) -> Iterator[Callable[[], None]]:
        if self._progress is None:
            yield lambda: None
            return
        progress, task = self._progress, self._progress.add_task(step, total=total)
        try:
            yield lambda: progress.advance(task)
        finally:
            progress.remove_task(task)


@dataclass(frozen=True, slots=True)
class _Work:
    """One block; opaque to Dask, which would look for its own things in tuples and lists."""

    function: Callable[[Any], Any]
    block: Any
    kept: Path | None


@dataclass(frozen=True, slots=True)
class _Found:
    """A result that was on disk."""

    result: Any


_n_done = count(1)
"""Of this process."""


def _do(work: _Work) -> Any:
    result = work.function(work.block)
    if work.kept is not None:
        write_kept(work.kept, result)
    if next(_n_done) % TRIM_EVERY == 0:
        _trim()
    return result


def _trim() -> None:
    """Give freed memory back where the allocator is glibc's: what blocks leave behind lies in pieces, and a process
    would grow by some 0.3 MB a block. Not after each block, as the next one's pages would have to be cleared again.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def write_kept(path: Path, result: Any) -> None:
    """Keep a result: whole or not at all, as a file appears under its name when it is written."""
    content = cloudpickle.dumps(result)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident()}")
    with partial.open("wb") as file:
        file.write(_digest(path, content))
        file.write(content)
    os.replace(partial, path)


def read_kept(path: Path) -> _Found | None:
    """A kept result; None where there is none, or where the file was cut off or is another block's."""
    try:
        with path.open("rb") as file:
            digest, content = file.read(_DIGEST_BYTES), file.read()
    except OSError:
        return None
    if digest != _digest(path, content):
        return None
    with suppress(Exception):
        return _Found(pickle.loads(content))
    return None


def _digest(path: Path, content: bytes) -> bytes:
    """Of the content and the name it was written under."""
    return hashlib.sha256(path.name.encode() + content).digest()


@contextmanager
def open_engine(
    n_workers: int, *, processes: bool = False, scratch: Path | None = None, progress: bool = False
) -> Iterator[Engine]:
    """Workers on this machine, until the context ends; nobody else can reach them.

    Args:
        n_workers: how many blocks are worked on at once.
        processes: each worker a process of its own, encrypted on 127.0.0.1; otherwise threads of this one.
        scratch: folder for finished blocks, made if it is not there. It must be ours alone, as what lies in it is
            unpickled. None for keeping nothing.
        progress: show a bar for each step on standard error.
    Raises:
        ConfigurationError: no worker, or a folder that others may write to.
    """
    if n_workers < 1:
        raise ConfigurationError(f"{n_workers} workers: give at least one")
    if scratch is not None:
        _own(scratch)
    with (
        tempfile.TemporaryDirectory(prefix="oncotwin-workers-") as folder,
        dask.config.set(_QUIET),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=n_workers if processes else 1,
            threads_per_worker=1 if processes else n_workers,
            processes=processes,
            host="127.0.0.1" if processes else None,
            security=True if processes else None,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=0,
            local_directory=folder,
            # An error of a block reaches the one who asked; Dask would print it with all that the block held besides.
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
        _shown(progress) as shown,
    ):
        yield Engine(client, n_workers, scratch, shown)


@contextmanager
def _shown(progress: bool) -> Iterator[Progress | None]:
    if not progress:
        yield None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as shown:
        yield shown


def _own(folder: Path) -> None:
    """Make a folder that is ours alone, or refuse one that is not."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat(follow_symlinks=False)
    if folder.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ConfigurationError(
            f"{folder} may be written to by others, and finished blocks are not taken from such a folder; remove it "
            "or name another one"
        )
