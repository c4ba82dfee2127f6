"""One REQ socket to a cloud, replaced as often as needed: resolve the name, watch the connection, read frames.

A REQ socket that waits for a lost reply cannot be used again, so a new one replaces it. libzmq reports a broken
connection. The new socket tries to connect every few hundred milliseconds, so that the next request arrives as soon as
the cloud is back. The host name is resolved again for each new socket, because its address may have changed. If a name
has several addresses and one does not answer, the next one is tried.

Every wait is split into short pieces: several times a second the caller can do other work, or end the wait.

Knows: addresses, keys, sockets, frames. Does not know: messages, the limits of a request.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

import zmq
from zmq.utils.monitor import parse_monitor_message

from llama.addresses import Endpoint, Lookup, NotAnAddress, UnknownHost, address_refusal, known, name_of, tcp_of
from llama.errors import LinkError, UsageError
from llama.keys import LinkKeys

RECONNECT_MS, RECONNECT_MAX_MS = 100, 300  # between attempts to connect
REPLIES_AHEAD = 2  # replies that libzmq reads before they are asked for
SLICE_S = 0.05  # the longest piece of a wait; a gigabyte a second may arrive meanwhile
REMAKE_S = 2.0  # to wait for a free socket, if all are in use
RETRY_S = 0.05  # between two attempts to make a socket
END_S = 0.1  # to wait for libzmq's own threads; one of them may be resolving a name


class Connection:
    """A socket, and the state of its connection.

    Args:
        address: ``tcp://HOST:PORT``.
        keys: its own pair, and the key of the one cloud that it trusts. Without keys, the cloud is not authenticated
            and the traffic is not encrypted.
        max_reply_bytes: the longest frame that libzmq accepts.
        between_waits: called several times a second during a wait. It may raise to end the wait.

    Attributes:
        is_up: the handshake has succeeded.
        was_lost: the connection broke after its handshake, and no request has been sent over another one since.
        host: the host name to resolve; empty if the address is an IP address.
        host_problem: why the host name cannot be resolved, or empty.
        bytes_sent, bytes_received: totals so far, over all sockets.

    Raises:
        UsageError: the address is not valid.
    """

    def __init__(
        self, address: str, *, keys: LinkKeys | None, max_reply_bytes: int, between_waits: Callable[[], None]
    ) -> None:
        self.address, self.host, self.host_problem = address, _host_named_in(address), ""
        self.bytes_sent = self.bytes_received = 0
        self._keys, self._max_reply_bytes, self._between_waits = keys, max_reply_bytes, between_waits
        self._context = zmq.Context()
        self._sockets_made = 0
        self.is_up = self.was_lost = False
        self._lookup: Lookup | None = None  # the look-up under way
        self._turn = 0  # index into a name's addresses
        self._good: Endpoint | None = None  # the address of the last successful handshake
        self._endpoint: Endpoint | None = None  # the address that the socket connects to
        self._socket = self._connect()

    @property
    def looks_up_its_host(self) -> bool:
        """True while the host name is being resolved."""
        return self._lookup is not None

    def close(self) -> None:
        """Close the connection and drop unsent data."""
        self._drop(self._socket)
        # term waits for libzmq's own threads, and the system may resolve a name in one of them for a long time.
        ending = threading.Thread(target=self._context.term, name="connection's end", daemon=True)
        ending.start()
        ending.join(END_S)

    def remake(self) -> None:
        """Replace the socket by a new one. Replies to earlier requests can no longer arrive.

        Raises:
            LinkError: no socket is free.
        """
        if self._endpoint is not None and not self._socket.closed:
            self.read_events()
            if not self._was_up:
                self._good, self._turn = None, self._turn + 1
        self._drop(self._socket)
        give_up = time.monotonic() + REMAKE_S
        while True:
            try:
                self._socket = self._connect()
                return
            except zmq.ZMQError as err:  # libzmq frees closed sockets later
                if time.monotonic() > give_up:
                    problem = f"no free socket to reach {self.address} ({err.strerror}); too many files are open here"
                    raise LinkError(problem) from None
            time.sleep(RETRY_S)

    def remake_if_lost(self) -> None:
        """Replace the socket if its connection broke, before a request. The host name is then resolved again."""
        self.read_events()
        if self.was_lost and self.host:
            self.remake()
        self.was_lost = False

    def read_events(self) -> None:
        """Read libzmq's events. A failed attempt to connect is not a loss: no data is sent before the handshake."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            self.was_lost = self.was_lost or (self.is_up and event == zmq.Event.DISCONNECTED)
            self.is_up = event == zmq.Event.HANDSHAKE_SUCCEEDED
            if self.is_up:
                self._was_up, self._good = True, self._endpoint

    def send(self, frames: Sequence[bytes | memoryview], timeout_s: float) -> None:
        """Give frames to libzmq within ``timeout_s``. If that fails, :meth:`receive` gets nothing.

        libzmq gives up a connection for good if its handshake was garbled. A blocking send would then wait for ever.
        """
        self.bytes_sent += sum(map(len, frames))
        give_up = time.monotonic() + timeout_s
        if not self._reach(give_up):
            return
        while not self._socket.poll(_slice_ms(give_up), zmq.POLLOUT):
            if time.monotonic() >= give_up:
                self.was_lost = True
                return
            self._between_waits()
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:  # the connection broke between poll and send
            self.was_lost = True

    def receive(self, timeout_s: float) -> zmq.Frame | None:
        """Wait for the first frame of a reply. Return None after ``timeout_s``, or at once if the connection breaks."""
        give_up = time.monotonic() + timeout_s
        while True:
            events = dict(self._poller.poll(0 if self.was_lost else _slice_ms(give_up)))
            if self._socket in events and (frame := self._frame()) is not None:
                self.bytes_received += len(frame)
                return frame
            if self._monitor in events:
                self.read_events()
            if self.was_lost or time.monotonic() >= give_up:
                return None
            self._between_waits()

    def _frame(self) -> zmq.Frame | None:
        """Return the first frame, or None if the message was not a REP reply and libzmq has skipped it."""
        try:
            return self._socket.recv(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return None

    def _connect(self) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_reply_bytes)
        socket.setsockopt(zmq.RCVHWM, REPLIES_AHEAD)
        if self._keys is not None:
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.own.secret.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.own.identity.public.encode())
            socket.setsockopt(zmq.CURVE_SERVERKEY, self._keys.cloud.public.encode())
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        try:
            self._watch(socket)
        except zmq.ZMQError:
            socket.close(linger=0)
            raise
        self._endpoint = None
        if not self.host:
            try:
                self._connect_to(known(self.address) or Endpoint(self.address), socket)
            except (zmq.ZMQError, NotAnAddress):
                self._drop(socket)
                raise _not_an_address(self.address) from None
        return socket

    def _connect_to(self, endpoint: Endpoint, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.IPV6, int(endpoint.ipv6))  # if set, libzmq uses IPv4-mapped IPv6 addresses for IPv4
        socket.connect(endpoint.address)
        self._endpoint = endpoint

    def _reach(self, give_up: float) -> bool:
        """Resolve the host name by ``give_up``, and connect the socket. Return whether the socket has an address."""
        if self._endpoint is not None:
            return True
        self._lookup = self._lookup or Lookup(self.address)
        try:
            found = self._lookup.wait(give_up - time.monotonic(), self._between_waits)
        except UnknownHost as err:
            self._lookup, self.host_problem = None, str(err)
            return False
        if found is None:
            return False
        self._lookup, self.host_problem = None, ""
        self._connect_to(self._good if self._good in found else found[self._turn % len(found)], self._socket)
        return True

    def _watch(self, socket: zmq.Socket[bytes]) -> None:
        """Let libzmq report the handshake and the loss of this socket's connection."""
        self._sockets_made += 1
        name = f"inproc://connection-{self._sockets_made}"
        socket.monitor(name, zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED)
        self._monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # with a limit, libzmq's thread could block, and all sockets with it
        self._monitor.connect(name)
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self.is_up = self.was_lost = self._was_up = False

    def _drop(self, socket: zmq.Socket[bytes]) -> None:
        if not socket.closed:
            socket.disable_monitor()
        self._monitor.close(linger=0)
        socket.close(linger=0)


def _slice_ms(give_up: float) -> int:
    """Return the milliseconds of the next piece of a wait that ends at ``give_up``."""
    return max(0, math.ceil(1000 * min(SLICE_S, give_up - time.monotonic())))


def _host_named_in(address: str) -> str:
    """Return the host name in an address, or an empty text for an IP address.

    Raises:
        UsageError: the address cannot be connected to.
    """
    try:
        name, tcp = name_of(address), tcp_of(address)
        if tcp is not None and (name == "*" or not tcp.port.isdecimal() or int(tcp.port) == 0):
            raise NotAnAddress
    except NotAnAddress as err:
        raise _not_an_address(address, str(err)) from None
    return name


def _not_an_address(address: str, why: str = "") -> UsageError:
    return UsageError(f"--cloud {address} is {address_refusal('connect to', why)}")
