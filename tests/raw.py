"""Bare TCP to a ZeroMQ port: the greeting and frames of ZMTP 3.0, written by hand, so that they may also be wrong.

Knows: ZMTP's bytes (RFC 23). Does not know: libzmq, the protocol of the product.
"""

from __future__ import annotations

import socket

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
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
