"""Bare TCP to a ZeroMQ port: the greeting and frames of ZMTP 3.0, written by hand, so that they may also be wrong.

Knows: ZMTP's bytes (RFC 23). Does not know: libzmq, the protocol of the product.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
SERVERS_GREETING = GREETING[:32] + b"\x00" + GREETING[33:]
SERVERS_READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER"
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ"
MORE = b"\x01\x00"  # an empty frame, after which another one is announced


def connected(address: str) -> socket.socket:
    """A connection to ``tcp://HOST:PORT``, over which nothing was said yet."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def joined(address: str) -> socket.socket:
    """A connection as a REQ peer's without keys; next come frames."""
    raw = connected(address)
    raw.sendall(GREETING)
    heard = b""
    while len(heard) < len(GREETING):
        heard += raw.recv(1024)
    raw.sendall(READY)
    return raw


def flood_with_frames(address: str, frames: int) -> int:
    """One message of so many frames, and its last one is still to come; how many were taken before the end of it."""
    sent, piece = 0, MORE * (1 << 15)
    with joined(address) as raw:
        try:
            while sent < frames:
                raw.sendall(piece)
                sent += 1 << 15
        except OSError:  # the other side has closed, or is gone
            pass
    return sent


def frame(body: bytes, *, more: bool = False) -> bytes:
    """A short frame."""
    assert len(body) < 256
    return bytes([more, len(body)]) + body


class Listening:
    """The other side: a ROUTER written by hand, which says what it likes to whoever has joined; a context manager.

    Args:
        say: called with each connection, a thread for each, once hands were shaken.
    """

    def __init__(self, say: Callable[[socket.socket], None]) -> None:
        self._say, self._open = say, list[socket.socket]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Listening:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                raw = self._server.accept()[0]
                self._open.append(raw)
                self._threads.append(threading.Thread(target=self._serve, args=(raw,)))
                self._threads[-1].start()

    def _serve(self, raw: socket.socket) -> None:
        with suppress(OSError):  # the peer has left
            raw.sendall(SERVERS_GREETING)
            heard = b""
            while b"READY" not in heard:
                piece = raw.recv(1024)
                if not piece:
                    return
                heard += piece
            raw.sendall(SERVERS_READY)
            self._say(raw)
