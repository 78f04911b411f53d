"""The wall around unit tests stands: each of these would pass if it did not."""

from __future__ import annotations

import socket

import pytest


def test_a_unit_test_cannot_connect() -> None:
    with pytest.raises(pytest.fail.Exception, match="opened a socket"), socket.socket() as plug:
        plug.connect(("127.0.0.1", 9))


def test_a_unit_test_cannot_listen() -> None:
    with pytest.raises(pytest.fail.Exception, match="opened a socket"), socket.socket() as plug:
        plug.listen()
