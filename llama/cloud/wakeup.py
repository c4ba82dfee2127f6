"""Wake-up sockets: a thread that waits in ZeroMQ's poll learns that another one has something for it.

A PULL socket for the thread that polls, and a PUSH socket for each thread that wakes it, over inproc; ZeroMQ's sockets
must not be shared between threads.
"""

from __future__ import annotations

import contextlib

import zmq

_ADDRESS = "inproc://wakeup"


class Wakeup:
    """The end that is polled.

    Attributes:
        socket: readable once somebody has sent.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self.socket: zmq.Socket[bytes] = context.socket(zmq.PULL)
        self.socket.bind(_ADDRESS)

    def sender(self) -> WakeupSender:
        """Make the end of one other thread."""
        socket: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(_ADDRESS)
        return WakeupSender(socket)

    def clear(self) -> None:
        """Take one wake-up out of the socket."""
        self.socket.recv()

    def close(self) -> None:
        """Close this end."""
        self.socket.close()


class WakeupSender:
    """The end of a thread that wakes the other."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def send(self) -> None:
        """Wake the other thread. A full socket does so anyway; to wait would hang if the other thread is gone."""
        with contextlib.suppress(zmq.Again):
            self._socket.send(b"", zmq.DONTWAIT)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
