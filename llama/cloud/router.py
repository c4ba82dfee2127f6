"""The cloud's ROUTER socket: messages in, replies out, and which connections may stay.

A message that is not the envelope of a REQ peer is dropped. What one peer or key sends beyond its rate is refused; who
goes on is disconnected. Nothing is decoded here.

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
AT_ONCE = 8  # messages read before anything else is looked after
MOST_FRAMES = 16  # of a message; a Step's has 4 with its envelope
EVENTS_AT_ONCE = 100  # of the monitor, likewise
OVERSIZE_AT_ONCE = 1000  # frames beyond those, read away before anything else is looked after
BACK_OFF_S = 0.001  # after messages beyond a rate nothing is read for so long: the worker needs the interpreter, too
REFUSALS_S = 20.0  # messages a second of a connection beyond its rate; a device asks again after 0.1 s


@dataclass(frozen=True)
class Sender:
    """Who has sent a message.

    Attributes:
        peer: the routing id of its socket.
        owner: the key that it came with; empty without keys.
        address: finds the IP address of its connection, or nothing; few requests need it.
        descriptor: of its connection, which may have ended since; -1 where it has none.
        arrived: monotonic seconds.
    """

    peer: bytes
    owner: str
    address: Callable[[], str]
    descriptor: int
    arrived: float


class RequestHandler(Protocol):
    """What the router needs of ``llama.cloud.handler``."""

    def handle(self, sender: Sender, frames: list[bytes]) -> bytes | None:
        """Take a message's frames, without its envelope; give the reply, or None where it will follow."""

    def over_rate(self, wait_s: float) -> bytes:
        """Give the reply to a message that came too early by ``wait_s`` seconds."""


class Router:
    """One listening socket; used by one thread.

    Args:
        context: ZeroMQ's.
        authenticator: who may speak to it; None lets anybody.
        limiter: of bytes, requests and work, by key, or without keys by connection.
        largest_frame: bytes of the largest frame that any request has.
        metrics: told of bytes.
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
        self._drains_oversize = False  # what comes next belongs to a message that has more frames than any request
        self._reads_again_at = 0.0
        self._port = 0
        self.socket = new_router(context)
        self.monitor = _monitor_of(self.socket, context)
        self._poller = zmq.Poller()
        self.watch(self.monitor)
        if authenticator is not None:
            self.watch(authenticator.requests)

    def watch(self, other: zmq.Socket[bytes]) -> None:
        """Let :meth:`poll` wait for another socket, too."""
        self._poller.register(other, zmq.POLLIN)

    def bind(self, address: str, endpoints: Sequence[Endpoint] = ()) -> str:
        """Listen on a ZeroMQ address; return the actual one (``tcp://…:*`` lets the system pick the port).

        Args:
            address: as it was given.
            endpoints: what it stands for; by default it is looked up. The first that this machine has is listened to.

        Raises:
            BindError: in use, malformed, or not an address of this machine.
        """
        for option, value in (
            (zmq.MAXMSGSIZE, self._largest_frame),
            (zmq.RCVHWM, PEER_QUEUE),
            (zmq.SNDHWM, PEER_QUEUE),
            (zmq.LINGER, 500),
            (zmq.HEARTBEAT_IVL, 10_000),  # a peer that vanished without a word is dropped
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
        """Wait until one of the sockets can be read; return those that can."""
        back_off_s = self._reads_again_at - self._clock()
        self._poller.modify(self.socket, 0 if back_off_s > 0 else zmq.POLLIN)
        ready = self._poller.poll(math.ceil(1000 * (back_off_s if back_off_s > 0 else timeout_s)))
        return {each for each, _ in ready}

    def read_monitor(self) -> None:
        """Read what libzmq says of connections; as much as is there, but not without end."""
        for _ in range(EVENTS_AT_ONCE):
            if not self.monitor.poll(0):
                return
            event = parse_monitor_message(self.monitor.recv_multipart())
            if event["event"] == zmq.Event.ACCEPTED:
                self.connections.accepted(int(event["value"]))
            else:
                self.connections.gone(int(event["value"]))

    def receive(self, handler: RequestHandler) -> None:
        """Read some messages; each is answered, handed on, dropped, or has its connection closed."""
        for _ in range(AT_ONCE):
            self._drain_oversize()
            # Asking also makes libzmq see what peers have read of their answers; else it would drop the fifth in a row.
            if self._drains_oversize or not int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            frames = [self.socket.recv(copy=False)]
            while frames[-1].more and len(frames) < MOST_FRAMES:
                frames.append(self.socket.recv(copy=False))
            self._drains_oversize = frames[-1].more
            # Not by the clock: while the worker has the interpreter, this thread waits.
            began = time.thread_time()
            peer, owner = frames[0].bytes, "" if self.authenticator is None else self.authenticator.owner_of(frames[-1])
            sent = self._take(frames, peer, owner, handler)
            self.limiter.charge(owner or peer, size=sent, seconds=time.thread_time() - began)

    def _drain_oversize(self) -> None:
        """Read away the frames of a message that has more of them than any request."""
        for _ in range(OVERSIZE_AT_ONCE if self._drains_oversize else 0):
            if not self._drains_oversize:
                return
            self._drains_oversize = self.socket.recv(copy=False).more

    def _take(self, frames: list[zmq.Frame], peer: bytes, owner: str, handler: RequestHandler) -> int:
        """Answer a message, or hand it on; return the bytes of the answer, if there is one now."""
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
            return 0  # not the envelope of a REQ peer: nobody to answer
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
        """Send a reply; nothing happens where the peer has left or does not read: it will ask again if it cares."""
        with contextlib.suppress(zmq.ZMQError):
            self.socket.send_multipart([peer, b"", reply], flags=zmq.DONTWAIT)
            self._metrics.sent.inc(len(reply))

    def disconnect(self, descriptor: int) -> None:
        """Close a connection, for which libzmq has no call; its peer may connect anew."""
        with contextlib.suppress(OSError, ValueError):  # it is closed already, or has no descriptor
            connection = socket.socket(fileno=descriptor)
            try:
                # Since then its number may have become another file's; one of this port takes a broken connection well.
                if self._port and connection.getsockname()[1] == self._port:
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()

    def disconnect_silent(self) -> None:
        """Close the connections over which nothing was said for too long."""
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
    """Create a ROUTER whose routing ids start at a random number.

    A peer may choose its own id, and libzmq (4.3.5) numbers those that choose none without looking whether that number
    is taken: then it aborts the process. It counts from ``rand()``, which is the same in every process that nobody
    seeded. From a number that nobody knows, whoever holds n connections meets the count once in 2**32 / n new ones.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no C library of that kind
        ctypes.CDLL(None).srand(ctypes.c_uint(secrets.randbits(32)))
    return context.socket(zmq.ROUTER)


def _monitor_of(router: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Make a socket that says which connections ``router`` gets and loses, by their descriptors; before it is bound."""
    address = "inproc://connections"
    router.monitor(address, zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED)
    monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.RCVHWM, 0)  # libzmq's thread would wait for room, and with it everything
    monitor.connect(address)
    return monitor


def _descriptor_of(frame: zmq.Frame) -> int:
    """The descriptor of the connection that a message came over, which may have ended since; -1 where it has none."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _address_of(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("Peer-Address"))
    except (zmq.ZMQError, KeyError):
        return ""
