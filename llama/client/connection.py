"""One REQ socket to a cloud, made anew as often as needed: a name looked up, a connection watched, a frame read.

A REQ socket that waits for a lost reply is of no further use, so a fresh one takes its place. libzmq says when a
connection breaks, and the fresh socket tries every few hundred milliseconds to connect, so that the next request is
there as soon as the cloud is. The name of a host is looked up anew for each fresh socket, since it may mean another
address by then; of several addresses the next one is tried where one leads nowhere.

Nothing is waited for in one piece: several times a second the caller may look after other things, or end the wait.

Knows: addresses, keys, sockets, frames. Does not know: messages, how long a request may take.
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
REPLIES_AHEAD = 2  # that libzmq takes in before they are asked for
SLICE_S = 0.05  # the longest piece of a wait; a gigabyte a second may come meanwhile
REMAKE_S = 2.0  # for a socket, where all are in use
RETRY_S = 0.05  # between two attempts to make one
END_S = 0.1  # for libzmq's own threads, one of which may be looking a name up


class Connection:
    """A socket, and what is known of the connection behind it.

    Args:
        address: ``tcp://HOST:PORT``.
        keys: its own, and those of the only cloud that it speaks to; without them anybody may answer, and listen.
        max_reply_bytes: the longest frame that libzmq takes in.
        between_waits: called several times a second while something is waited for; it may raise to wait no longer.

    Attributes:
        is_up: hands were shaken.
        was_lost: and then the connection broke; nothing has been sent over another one since.
        host: the name of the host that is looked up; empty where the address is an IP address.
        host_problem: why the name of the host leads nowhere, or empty.
        bytes_sent, bytes_received: so far, over all sockets.

    Raises:
        UsageError: the address is none.
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
        self._lookup: Lookup | None = None  # under way
        self._turn = 0  # which of a name's addresses
        self._good: Endpoint | None = None  # the one where hands were shaken last
        self._endpoint: Endpoint | None = None  # what the socket connects to
        self._socket = self._connect()

    @property
    def looks_up_its_host(self) -> bool:
        """Whether it still waits for what the name of the host means."""
        return self._lookup is not None

    def close(self) -> None:
        """Drop the connection and whatever is unsent."""
        self._drop(self._socket)
        # It waits for libzmq's own threads, which a look-up of a name may hold for as long as the system likes.
        ending = threading.Thread(target=self._context.term, name="connection's end", daemon=True)
        ending.start()
        ending.join(END_S)

    def remake(self) -> None:
        """Put a fresh socket in place of this one; a reply to what was sent can no longer arrive.

        Raises:
            LinkError: there is no socket to be had.
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
            except zmq.ZMQError as err:  # libzmq takes down in its own time what was closed
                if time.monotonic() > give_up:
                    problem = f"no socket to reach {self.address} with ({err.strerror}); too many files are open here"
                    raise LinkError(problem) from None
            time.sleep(RETRY_S)

    def remake_if_lost(self) -> None:
        """Look after a connection that broke before a request, which goes out to where the name leads by now."""
        self.read_events()
        if self.was_lost and self.host:
            self.remake()
        self.was_lost = False

    def read_events(self) -> None:
        """Read what libzmq said. Nothing is sent before the handshake, so a failed attempt to connect is no loss."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            self.was_lost = self.was_lost or (self.is_up and event == zmq.Event.DISCONNECTED)
            self.is_up = event == zmq.Event.HANDSHAKE_SUCCEEDED
            if self.is_up:
                self._was_up, self._good = True, self._endpoint

    def send(self, frames: Sequence[bytes | memoryview], timeout_s: float) -> None:
        """Hand frames to libzmq, within ``timeout_s``; where that does not come about, :meth:`receive` gets nothing.

        libzmq gives up, for good, a connection whose handshake was garbled; a send would wait for another for ever.
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
        except zmq.Again:  # the connection went between the look and the sending
            self.was_lost = True

    def receive(self, timeout_s: float) -> zmq.Frame | None:
        """Wait for the first frame of a reply; None after ``timeout_s``, or at once when the connection breaks."""
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
        """The first frame of what has come; None where that is no reply of a REP's, and libzmq has passed over it."""
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
        socket.setsockopt(zmq.IPV6, int(endpoint.ipv6))  # with it, libzmq has no IPv4 addresses but in IPv6's guise
        socket.connect(endpoint.address)
        self._endpoint = endpoint

    def _reach(self, give_up: float) -> bool:
        """Have the socket connect to what the name of the host means now, if that is known until ``give_up``."""
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
        """Have libzmq say when this socket's connection breaks."""
        self._sockets_made += 1
        name = f"inproc://connection-{self._sockets_made}"
        socket.monitor(name, zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED)
        self._monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # libzmq's thread would wait for room, and with it everything
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
    """Milliseconds of one piece of a wait that ends at ``give_up``."""
    return max(0, math.ceil(1000 * min(SLICE_S, give_up - time.monotonic())))


def _host_named_in(address: str) -> str:
    """The name of the host, where there is one; or empty.

    Raises:
        UsageError: it is no address to connect to.
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
