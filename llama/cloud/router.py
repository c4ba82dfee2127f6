"""The cloud's ROUTER socket: it receives messages, sends replies, and closes connections that may not stay.

The router drops messages without a REQ peer's envelope. It answers ``busy`` to a peer or key that exceeds its rate, and
disconnects peers that ignore ``busy``. It decodes nothing.

Knows: sockets, connections, keys, sizes, the clock. Does not know: requests, sessions, the model.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from llama.addresses import Endpoint
from llama.cloud.auth import Authenticator
from llama.cloud.connections import Connections
from llama.cloud.listening import bind_to_first
from llama.cloud.metrics import Metrics
from llama.cloud.rate_limit import RateLimiter

PEER_QUEUE = 4  # messages held per peer and direction; a REQ peer has one
AT_ONCE = 8  # maximum messages per call, so that the I/O thread's other work gets its turn
MOST_FRAMES = 16  # maximum frames of a message; a Step's message has 4 with its envelope
EVENTS_AT_ONCE = 100  # maximum monitor events per call, for the same reason
OVERSIZE_AT_ONCE = 1000  # maximum frames beyond MOST_FRAMES that are read and dropped per call
BACK_OFF_S = 0.001  # pause in reading after a message over the rate, so that the model thread can take the GIL
REFUSALS_S = 20.0  # messages a second that a connection over its rate may send; a device asks again after 0.1 s


@dataclass(frozen=True)
class Sender:
    """Sender of a message.

    Attributes:
        peer: the routing id of its socket.
        owner: the public key of its connection; empty without keys.
        address: returns the IP address of its connection, or an empty string. Few requests need it.
        descriptor: file descriptor of its connection, which may have ended since; -1 if there is none.
        arrived: when the message arrived, in monotonic seconds.
    """

    peer: bytes
    owner: str
    address: Callable[[], str]
    descriptor: int
    arrived: float


class RequestHandler(Protocol):
    """The methods of ``llama.cloud.handler`` that the router calls."""

    def handle(self, sender: Sender, frames: list[bytes]) -> bytes | None:
        """Handle a message's frames, without its envelope. Return the reply, or None if it follows later."""

    def over_rate(self, wait_s: float) -> bytes:
        """Return the reply to a message that came ``wait_s`` seconds too early."""


class Router:
    """The cloud's listening socket, used by a single thread.

    Args:
        context: the ZeroMQ context.
        authenticator: decides which keys may connect. None accepts every client.
        limiter: rate limiter for bytes, requests and work, by key, or without keys by connection.
        largest_frame: maximum bytes of a request's frame.
        metrics: counts received and sent bytes.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        authenticator: Authenticator | None,
        limiter: RateLimiter,
        largest_frame: int,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.authenticator, self.limiter, self._metrics, self._clock = authenticator, limiter, metrics, clock
        self.connections = Connections(clock)
        self._refusals = RateLimiter(math.inf, REFUSALS_S, 0, clock)
        self._largest_frame = largest_frame
        self._drains_oversize = False  # the next frames belong to a message with more than MOST_FRAMES
        self._reads_again_at = 0.0
        self._port = 0
        self.socket = new_router(context)
        self.monitor = _monitor_of(self.socket, context)
        self._poller = zmq.Poller()
        self.watch(self.monitor)
        if authenticator is not None:
            self.watch(authenticator.requests)

    def watch(self, other: zmq.Socket[bytes]) -> None:
        """Add a socket to those that :meth:`poll` waits for."""
        self._poller.register(other, zmq.POLLIN)

    def bind(self, address: str, endpoints: Sequence[Endpoint] = ()) -> str:
        """Listen on a ZeroMQ address; return the actual one (``tcp://…:*`` lets the system pick the port).

        Args:
            address: the address as the provider gave it.
            endpoints: the endpoints that it resolves to; by default it is looked up. The router listens on the first
                one that this machine has.

        Raises:
            BindError: the address is in use, malformed, or not one of this machine.
        """
        for option, value in (
            (zmq.MAXMSGSIZE, self._largest_frame),
            (zmq.RCVHWM, PEER_QUEUE),
            (zmq.SNDHWM, PEER_QUEUE),
            (zmq.LINGER, 500),
            (zmq.HEARTBEAT_IVL, 10_000),  # libzmq drops a peer that vanished without closing its connection
            (zmq.HEARTBEAT_TIMEOUT, 30_000),
        ):
            self.socket.setsockopt(option, value)
        if self.authenticator is not None:
            self.authenticator.guard(self.socket)
        bind_to_first(self.socket, address, endpoints)
        endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._port = int(endpoint.rpartition(":")[2]) if endpoint.startswith("tcp:") else 0
        return endpoint

    def poll(self, timeout_s: float) -> set[zmq.Socket[bytes]]:
        """Wait until at least one socket is readable; return the readable ones."""
        back_off_s = self._reads_again_at - self._clock()
        self._poller.modify(self.socket, 0 if back_off_s > 0 else zmq.POLLIN)
        ready = self._poller.poll(math.ceil(1000 * (back_off_s if back_off_s > 0 else timeout_s)))
        return {each for each, _ in ready}

    def read_monitor(self) -> None:
        """Read libzmq's events about connections: those that are there, up to ``EVENTS_AT_ONCE``."""
        for _ in range(EVENTS_AT_ONCE):
            if not self.monitor.poll(0):
                return
            event = parse_monitor_message(self.monitor.recv_multipart())
            if event["event"] == zmq.Event.ACCEPTED:
                self.connections.accepted(int(event["value"]))
            else:
                self.connections.gone(int(event["value"]))

    def receive(self, handler: RequestHandler) -> None:
        """Read up to ``AT_ONCE`` messages. Answer, hand on or drop each one, or close its connection."""
        for _ in range(AT_ONCE):
            self._drain_oversize()
            # Reading EVENTS also makes libzmq notice which replies the peers have read. Otherwise it would drop the
            # fifth reply in a row.
            if self._drains_oversize or not int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            frames = [self.socket.recv(copy=False)]
            while frames[-1].more and len(frames) < MOST_FRAMES:
                frames.append(self.socket.recv(copy=False))
            self._drains_oversize = frames[-1].more
            # CPU time, not wall time: this thread waits while the worker holds the GIL.
            began = time.thread_time()
            peer, owner = frames[0].bytes, "" if self.authenticator is None else self.authenticator.owner_of(frames[-1])
            sent = self._take(frames, peer, owner, handler)
            self.limiter.charge(owner or peer, size=sent, seconds=time.thread_time() - began)

    def _drain_oversize(self) -> None:
        """Read and drop the frames of a message that has more of them than any request."""
        for _ in range(OVERSIZE_AT_ONCE if self._drains_oversize else 0):
            if not self._drains_oversize:
                return
            self._drains_oversize = self.socket.recv(copy=False).more

    def _take(self, frames: list[zmq.Frame], peer: bytes, owner: str, handler: RequestHandler) -> int:
        """Answer a message or hand it on. Return the size of the reply in bytes, or 0 if none is sent now."""
        arrived = self._clock()
        sizes = [len(frame) for frame in frames]
        wait_s = self.limiter.wait_s(owner or peer, sum(sizes))
        if wait_s:
            self._reads_again_at = arrived + BACK_OFF_S
        descriptor = _descriptor_of(frames[-1])
        may_stay = self.connections.heard(descriptor, owner)
        if self._drains_oversize or not may_stay or (wait_s and self._refusals.wait_s(peer, 0)):
            self.disconnect(descriptor)
            return 0
        if len(sizes) < 3 or sizes[1] != 0:
            return 0  # not the envelope of a REQ peer: there is no peer to answer
        self._metrics.received.inc(sum(sizes[2:]))
        if wait_s:
            reply: bytes | None = handler.over_rate(wait_s)
        else:
            sender = Sender(peer, owner, partial(_address_of, frames[2]), descriptor, arrived)
            reply = handler.handle(sender, [frame.bytes for frame in frames[2:]])
        if reply is None:
            return 0
        self.send(peer, reply)
        return len(reply)

    def send(self, peer: bytes, reply: bytes) -> None:
        """Send a reply. Drop it if the peer has left or does not read; a peer that needs it asks again."""
        with contextlib.suppress(zmq.ZMQError):
            self.socket.send_multipart([peer, b"", reply], flags=zmq.DONTWAIT)
            self._metrics.sent.inc(len(reply))

    def disconnect(self, descriptor: int) -> None:
        """Close a connection by its descriptor, since libzmq has no call for that. Its peer may connect again."""
        with contextlib.suppress(OSError, ValueError):  # it is closed already, or has no descriptor
            connection = socket.socket(fileno=descriptor)
            try:
                # The system may have reused the descriptor for another file. Closing another connection of this port
                # does no harm, since its peer connects again; any other file is left alone.
                if self._port and connection.getsockname()[1] == self._port:
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()

    def disconnect_silent(self) -> None:
        """Close the connections that have been silent for too long."""
        for descriptor in self.connections.silent():
            self.disconnect(descriptor)

    def close(self) -> None:
        """Close all sockets."""
        self.socket.disable_monitor()
        self.socket.close()
        self.monitor.close()
        if self.authenticator is not None:
            self.authenticator.close()


def new_router(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Create a ROUTER whose generated routing ids start at a random number.

    A peer may choose its own routing id. libzmq (4.3.5) numbers the other peers without checking whether a number is
    taken, and aborts the process on a collision. It counts from ``rand()``, which returns the same number in every
    process that does not seed it. So we seed it randomly: a peer that holds n connections then causes a collision once
    in 2**32 / n new connections.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no C library with srand
        ctypes.CDLL(None).srand(ctypes.c_uint(secrets.randbits(32)))
    return context.socket(zmq.ROUTER)


def _monitor_of(router: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Create a socket that reports the descriptors of connections that ``router`` accepts and loses.

    Call this before ``router`` is bound.
    """
    address = "inproc://connections"
    router.monitor(address, zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED)
    monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.RCVHWM, 0)  # with a limit, libzmq's I/O thread would block when it is reached
    monitor.connect(address)
    return monitor


def _descriptor_of(frame: zmq.Frame) -> int:
    """Return the descriptor of a message's connection, or -1 if there is none. The connection may have ended since."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _address_of(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("Peer-Address"))
    except (zmq.ZMQError, KeyError):
        return ""
