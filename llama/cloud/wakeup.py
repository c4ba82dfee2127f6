"""Wake-up sockets: one thread wakes another that waits in ZeroMQ's poll.

The thread that polls has a PULL socket. Each thread that wakes it has its own PUSH socket, since threads must not share
a ZeroMQ socket. The transport is inproc.

Knows: sockets. Does not know: the jobs and results that a wake-up is about.
"""

from __future__ import annotations

import contextlib

import zmq

_ADDRESS = "inproc://wakeup"


class Wakeup:
    """Receiving end, which the waiting thread polls.

    Attributes:
        socket: readable once a sender has sent.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self.socket: zmq.Socket[bytes] = context.socket(zmq.PULL)
        self.socket.bind(_ADDRESS)

    def sender(self) -> WakeupSender:
        """Create the sending end for one other thread."""
        socket: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(_ADDRESS)
        return WakeupSender(socket)

    def clear(self) -> None:
        """Receive one wake-up from the socket."""
        self.socket.recv()

    def close(self) -> None:
        """Close this end."""
        self.socket.close()


class WakeupSender:
    """Sending end of one thread."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def send(self) -> None:
        """Wake the other thread, without blocking.

        If the socket is full, the other thread wakes anyway. Waiting for room would hang if that thread has ended.
        """
        with contextlib.suppress(zmq.Again):
            self._socket.send(b"", zmq.DONTWAIT)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
