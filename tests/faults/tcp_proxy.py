"""A TCP proxy on loopback that cuts its connections on demand."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

_CHUNK = 65_536
_AT_ONCE = struct.pack("ii", 1, 0)
"""Linger for no time: closing resets the connection, as a router that lost it would."""


class TcpProxy:
    """Passes bytes on to a port of this machine, from a thread of its own; use it as a context manager."""

    def __init__(self, target: int) -> None:
        """Listen on a free port; nothing is passed on before the block begins.

        Args:
            target: port that connections are passed on to.
        """
        self.target = target
        self.n_cut = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._refuse_until = 0.0
        self._left: int | None = None
        self._thread = threading.Thread(target=self._pass_on, name="proxy", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def cut(self, refuse_s: float = 0.0) -> int:
        """Reset every connection, and refuse new ones for a time; returns how many were cut."""
        with self._lock:
            self._refuse_until = time.monotonic() + refuse_s
            return self._cut_all()

    def cut_after(self, n_bytes: int) -> None:
        """Reset every connection in the middle of what is being sent: after so many bytes more."""
        with self._lock:
            self._left = n_bytes

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._cut_all()
        self._listener.close()

    def _cut_all(self) -> int:
        n = len(self._pairs) // 2
        for one in self._pairs:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            one.close()
        self._pairs.clear()
        self.n_cut += n
        return n

    def _pass_on(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                watched = [self._listener, *self._pairs]
            try:
                readable, _, _ = select.select(watched, [], [], 0.05)
            except (OSError, ValueError):
                # One was closed between the two lines.
                continue
            for one in readable:
                with self._lock:
                    if one is self._listener:
                        self._accept()
                    elif one in self._pairs:
                        self._move(one)

    def _accept(self) -> None:
        ours, _ = self._listener.accept()
        if time.monotonic() < self._refuse_until:
            ours.close()
            return
        try:
            theirs = socket.create_connection(("127.0.0.1", self.target), timeout=1.0)
        except OSError:
            ours.close()
            return
        # A peer that does not read is no reason to wait for ever.
        for one in (ours, theirs):
            one.settimeout(10.0)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs[ours], self._pairs[theirs] = theirs, ours

    def _move(self, one: socket.socket) -> None:
        other = self._pairs[one]
        try:
            content = one.recv(_CHUNK)
            if self._left is not None and len(content) >= self._left:
                other.sendall(content[: self._left])
                self._left = None
                self._cut_all()
                return
            if self._left is not None:
                self._left -= len(content)
            other.sendall(content)
        except OSError:
            content = b""
        if not content:
            for end in (one, other):
                self._pairs.pop(end, None)
                end.close()
