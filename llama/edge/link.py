"""The device's side of the network: one REQ socket, and patience.

ZeroMQ's Lazy Pirate: a request whose answer does not come is asked again on a fresh socket, since a REQ socket that
waits for a lost reply is of no further use. Asking again is safe because the cloud recognises a repeated request. A
late answer may also mean a long computation; so silence is followed by Hello, and only a cloud that does not answer
that either is counted as gone.

A connection that breaks is not waited for: libzmq says so, and the fresh socket tries every few hundred milliseconds
to connect, so that Hello is there as soon as the cloud is.

Knows: addresses, deadlines, ``llama.wire``. Does not know: the model, text.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Sequence
from socket import getaddrinfo
from types import TracebackType

import msgspec
import torch
import zmq
from zmq.utils.monitor import parse_monitor_message

from llama import wire
from llama.errors import CloudRefused, CloudUnreachable, ProtocolMismatch, UsageError
from llama.keys import LinkKeys
from llama.sampling import Sampling
from llama.wire import (
    Close,
    Error,
    ErrorCode,
    Final,
    Finish,
    Hello,
    Open,
    Opened,
    Reply,
    Request,
    Step,
    Tokens,
    Welcome,
)  # fmt: skip

HELLO_PATIENCE_S = (1.0, 2.0, 4.0, 5.0)  # a handshake is answered at once; the last entry repeats
STEP_PATIENCE_S = 5.0  # a computation may take longer: then the cloud is asked whether it lives
RECONNECT_MS, RECONNECT_MAX_MS = 100, 300  # between attempts to connect
MAX_STALE = 3  # replies to earlier requests, for one request
MAX_LOSSES = 12  # in a row, of the connection over which one request was sent
AT_ONCE_S = 0.05  # before asking again a cloud that has done the waiting itself
MAX_REPLY_BYTES = 64 << 20
WAITING_MS = 200
# A cloud says nothing to a key that it does not list, nor can it to one that expects another cloud.
CHECK_KEYS = "that this key is in the cloud's --allow_dir, and that --cloud_key is that cloud's"
GIVE_KEYS = "if that cloud has keys, give --key_file and --cloud_key"  # nor does it to a device without one


class Link:
    """A connection to one cloud, remade as often as needed.

    Args:
        address: ``tcp://HOST:PORT``.
        deadline_s: a cloud that gives no sign of life for so long is given up.
        on_notice: told in words about every retry.
        while_waiting: called several times a second while an answer is awaited; it may raise to wait no longer.
        keys: its own, and those of the only cloud that it speaks to; without them anybody may answer, and listen.

    Attributes:
        silent: the cloud is late with an answer, and did not say that it lives.
        waits_when_busy: a full cloud is asked again, for ``deadline_s``; otherwise its refusal is raised at once.
    """

    def __init__(
        self, address: str, *, deadline_s: float = 30.0, on_notice: Callable[[str], None] = print,
        while_waiting: Callable[[], None] | None = None, keys: LinkKeys | None = None,
    ) -> None:  # fmt: skip
        self.address, self.deadline_s, self.on_notice = address, deadline_s, on_notice
        self.while_waiting, self.keys = while_waiting, keys
        self.silent, self.waits_when_busy = False, True
        self.bytes_sent = self.bytes_received = 0
        self._context = zmq.Context()
        self._pending: tuple[Request, list[bytes | memoryview]] | None = None
        self._sockets_made = 0
        self._joined = self._lost = False  # hands were shaken; and then the connection broke
        self._socket = self._connect()

    def close(self) -> None:
        """Drop the connection and whatever is unsent."""
        self._drop(self._socket)
        self._context.term()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> Welcome:
        """Who is there.

        Raises:
            CloudUnreachable, CloudRefused, ProtocolMismatch: see :meth:`ask`.
        """
        welcome = self.ask(Hello(wire.VERSION))
        if not isinstance(welcome, Welcome) or welcome.version != wire.VERSION or not _is_usable(welcome):
            raise ProtocolMismatch(f"{self.address} answered Hello with something else; is it a cloud of this release?")
        return welcome

    def ask(self, request: Request, rows: torch.Tensor | None = None) -> Reply:
        """One request, one reply.

        Raises:
            CloudUnreachable: no sign of life for ``deadline_s``, or the connection breaks again and again.
            CloudRefused: a typed Error; ``busy`` only after ``deadline_s`` of it.
            ProtocolMismatch: the answer is not of this protocol.
        """
        self.begin(request, rows)
        return self.finish()

    def begin(self, request: Request, rows: torch.Tensor | None = None) -> None:
        """Send a request; :meth:`finish` waits for the reply. In between the caller may compute."""
        assert self._pending is None, "a REQ socket has one request at a time"
        frames: list[bytes | memoryview] = [wire.encode(request)]
        if rows is not None:
            frames.append(wire.rows_to_frame(rows))
        self._pending = (request, frames)
        self._look_at_the_connection()
        self._lost = False  # it broke before this request, which goes out with the next connection
        self._send(frames)

    def finish(self) -> Reply:
        """The reply to what was begun. Raises as :meth:`ask`."""
        assert self._pending is not None, "nothing was begun"
        request, frames = self._pending
        try:
            reply = self._wait_for_a_place(request, frames)
        except (CloudUnreachable, ProtocolMismatch):
            self.abandon()
            raise
        self._pending = None
        if isinstance(reply, Error):
            raise CloudRefused(reply.code, reply.message, reply.advice, reply.retry_after_s)
        return reply

    def pause(self, seconds: float) -> None:
        """Wait before asking again."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.while_waiting is not None:
                self.while_waiting()
            time.sleep(min(left, WAITING_MS / 1000))

    def abandon(self) -> None:
        """Forget a request that was begun; its reply can no longer arrive."""
        if self._pending is not None:
            self._pending = None
            self._remake()

    # ---- inside

    def _wait_for_a_place(self, request: Request, frames: list[bytes | memoryview]) -> Reply:
        """The reply; a cloud that is busy is asked again with the same bytes."""
        give_up, told, stale = math.inf, False, 0
        while True:
            reply = self._wait_for_reply(request, frames)
            if isinstance(reply, Tokens) and reply.seq != getattr(request, "seq", 0) and stale < MAX_STALE:
                stale += 1  # something in between has handed an earlier reply on once more
                self._remake()
                self._send(frames)
                continue
            if not isinstance(reply, Error) or reply.code != ErrorCode.BUSY or not self.waits_when_busy:
                return reply
            now = time.monotonic()
            give_up = min(give_up, now + self.deadline_s)
            if now > give_up:
                return Error(reply.code, f"{reply.message}; it was asked again for {self.deadline_s:.0f} s",
                             "try again later, or wait longer with --deadline", reply.retry_after_s)  # fmt: skip
            hint = reply.retry_after_s
            if hint == 0:  # it keeps this device's place in a queue, and has held the request for a while
                if not told:
                    self.on_notice("the cloud is full; waiting for a place")
                told = True
                self.pause(AT_ONCE_S)
            else:
                wait = min(max(hint, 0.1), 10.0) if hint is not None and math.isfinite(hint) else 1.0
                self.on_notice(f"the cloud is busy: {reply.message}; asking again in {wait:.1f} s")
                self.pause(wait)
            self._look_at_the_connection()
            self._lost = False  # as in begin
            self._send(frames)

    def _wait_for_reply(self, request: Request, frames: list[bytes | memoryview]) -> Reply:
        is_hello = isinstance(request, Hello)
        heard = time.monotonic()
        # Half the deadline at most, so that however short it is the cloud is asked whether it lives.
        reply = self._receive(min(HELLO_PATIENCE_S[0] if is_hello else STEP_PATIENCE_S, self.deadline_s / 2))
        attempt = losses = 0
        while reply is None:
            silent_s = time.monotonic() - heard
            if silent_s >= 0.95 * self.deadline_s:  # the rest would not be worth asking for
                if (host := self._host()) is not None and not _is_known(host):
                    raise CloudUnreachable(f"no answer from {self.address}: this machine knows no host of the name "
                                           f"{host}; check how it is written, or give its IP address")  # fmt: skip
                raise CloudUnreachable(
                    f"no answer from {self.address} for {silent_s:.0f} s; check that cloud_main.py runs there, that "
                    f"the address is right and that no firewall is in between"
                    f"{f'; and {GIVE_KEYS}' if self.keys is None else f'; also {CHECK_KEYS}'}"
                )
            self.silent = True
            if self._lost:
                losses += 1
                self._bear_a_loss(losses)
            else:
                self.on_notice(f"no answer from {self.address} for {silent_s:.0f} s; asking again "
                               f"(giving up after {self.deadline_s:.0f} s)")  # fmt: skip
                attempt += 1
            patience = HELLO_PATIENCE_S[min(attempt, len(HELLO_PATIENCE_S) - 1)]
            patience = min(patience, max(0.1, self.deadline_s - silent_s))
            self._remake()
            self._send([wire.encode(Hello(wire.VERSION))])
            sign_of_life = self._receive(patience)
            if sign_of_life is None:
                continue
            if is_hello:
                return sign_of_life
            heard, attempt = time.monotonic(), 0
            self._send(frames)
            reply = self._receive(min(STEP_PATIENCE_S, self.deadline_s / 2))
        return reply

    def _host(self) -> str | None:
        """The address's host, where the name of one belongs."""
        scheme, _, rest = self.address.partition("://")
        return rest.rpartition(":")[0].removeprefix("[").removesuffix("]") if scheme == "tcp" else None

    def _bear_a_loss(self, losses: int) -> None:
        """The connection broke under a request, ``losses`` times by now: the first is told, the later ones waited out.

        A cloud that restarts breaks it once. More often is a bad line, or something that breaks it because of what is
        sent; neither is to be asked as fast as it answers.
        """
        if losses == 1:
            self.on_notice(f"the connection to {self.address} broke; asking again as soon as it is back "
                           f"(giving up after {self.deadline_s:.0f} s)")  # fmt: skip
        elif losses >= MAX_LOSSES:
            raise CloudUnreachable(f"the connection to {self.address} broke {losses} times under one request; "
                                   f"check what is in between")  # fmt: skip
        else:
            self.pause(min(RECONNECT_MS / 1000 * 2 ** (losses - 2), STEP_PATIENCE_S, self.deadline_s / 8))

    def _connect(self) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
        if self.keys is not None:
            socket.setsockopt(zmq.CURVE_SECRETKEY, self.keys.own.secret.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self.keys.own.identity.public.encode())
            socket.setsockopt(zmq.CURVE_SERVERKEY, self.keys.cloud.public.encode())
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        self._watch(socket)
        if self.address.startswith("tcp://["):
            socket.setsockopt(zmq.IPV6, 1)
        try:
            if not wire.has_a_port(self.address):
                raise zmq.ZMQError(errno.EINVAL)
            socket.connect(self.address)
        except zmq.ZMQError:
            self._drop(socket)
            raise UsageError(f"--cloud {self.address} is not an address to connect to; write tcp://HOST:PORT") from None
        return socket

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
        self._joined = self._lost = False

    def _look_at_the_connection(self) -> None:
        """Read what libzmq said. Nothing is sent before the handshake, so a failed attempt to connect is no loss."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            self._lost = self._lost or (self._joined and event == zmq.Event.DISCONNECTED)
            self._joined = event == zmq.Event.HANDSHAKE_SUCCEEDED

    def _drop(self, socket: zmq.Socket[bytes]) -> None:
        socket.disable_monitor()
        self._monitor.close(linger=0)
        socket.close(linger=0)

    def _remake(self) -> None:
        self._drop(self._socket)
        self._socket = self._connect()

    def _send(self, frames: Sequence[bytes | memoryview]) -> None:
        self.bytes_sent += sum(map(len, frames))
        # libzmq gives up, for good, a connection whose handshake was garbled; a send would wait for another for ever.
        patience_s = min(HELLO_PATIENCE_S[0], self.deadline_s / 2)
        if self._socket.poll(math.ceil(1000 * patience_s), zmq.POLLOUT):
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        else:
            self._lost = True

    def _receive(self, patience_s: float) -> Reply | None:
        """What comes within ``patience_s``; None also at once when the connection breaks."""
        give_up = time.monotonic() + patience_s
        while True:
            left_ms = 0 if self._lost else max(0, math.ceil(1000 * (give_up - time.monotonic())))
            events = dict(self._poller.poll(left_ms if self.while_waiting is None else min(WAITING_MS, left_ms)))
            if self._socket in events:
                break
            if self._monitor in events:
                self._look_at_the_connection()
            if self._lost or time.monotonic() >= give_up:
                return None
            if self.while_waiting is not None:
                self.while_waiting()
        frames = self._socket.recv_multipart()
        self.silent = False
        self.bytes_received += sum(map(len, frames))
        try:
            if len(frames) != 1:
                raise ValueError(f"{len(frames)} frames")
            return wire.decode_reply(frames[0])
        except ValueError as err:
            raise ProtocolMismatch(f"{self.address} answered, but not in this protocol ({err})") from None


def _is_known(host: str) -> bool:
    """Whether it is an address, or a name that can be looked up. libzmq looks it up, too, and does not tell."""
    try:
        getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True


def _is_usable(welcome: Welcome) -> bool:
    return welcome.dtype in wire.DTYPES and welcome.max_rows > 0 and welcome.dim > 0


class Session:
    """One run's place in the cloud; a context manager, so that the place is always given back.

    Args:
        link: the connection.
        welcome: what the cloud said.
        prompt_tokens: P.
        sampling: settings, used by the cloud.
        stop_ids: where the cloud cuts the text.
        prompt_id: the prompt sheet's id, or empty.
        prefix_ids: what the prompt begins with, if the cloud may have computed it before.

    Attributes:
        cached: positions that need not be sent: all of the prefix, or none.
    """

    def __init__(
        self, link: Link, welcome: Welcome, *,
        prompt_tokens: int, sampling: Sampling, stop_ids: Sequence[int], prompt_id: str = "",
        prefix_ids: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self._link, self._id, self._seq, self.cached = link, b"", 0, 0
        self._prefix_length = len(prefix_ids)
        self._dtype, self._dim = wire.DTYPES[welcome.dtype], welcome.dim
        self._opening = Open(
            os.urandom(wire.RUN_ID_BYTES), welcome.fingerprint, prompt_tokens, sampling.temperature, sampling.top_p,
            sampling.seed, tuple(stop_ids), prompt_id,
            prefix=wire.prefix_id(welcome.fingerprint, prefix_ids) if prefix_ids else b"",
        )  # fmt: skip

    def open(self, resumed_ids: Sequence[int] = ()) -> None:
        """Get a place, waiting for one if the cloud is full; with the ids so far if a place was lost.

        Raises:
            CloudRefused: full for longer than the link's deadline, or another reason.
        """
        opened = self._link.ask(msgspec.structs.replace(self._opening, resumed_ids=tuple(resumed_ids)))
        if not isinstance(opened, Opened) or opened.cached not in (0, self._prefix_length):
            raise self._mismatch("Open")
        self._id, self._seq, self.cached = opened.session, 0, opened.cached

    def begin_step(self, rows: torch.Tensor, position: int, want: int, times: bool = False) -> None:
        """Send rows ``(T, dim)``; :meth:`finish_step` waits for the ids, and for the cloud's ``times`` if asked for."""
        if rows.dtype != self._dtype or rows.shape[1] != self._dim:
            raise ValueError("the rows are not of the cloud's dtype and width")
        self._seq += 1
        dtype = wire.DTYPE_NAMES[rows.dtype]
        step = Step(self._id, self._seq, position, want, dtype, rows.shape[0], rows.shape[1], times)
        self._want = want
        self._link.begin(step, rows)

    def finish_step(self) -> Tokens:
        """The ids for the rows sent last."""
        tokens = self._link.finish()
        if not isinstance(tokens, Tokens) or len(tokens.ids) != self._want:
            raise self._mismatch("Step")
        return tokens

    def finish(self, end: int) -> Final:
        """The reply is outputs ``0 … end-1``: its text. Waited for without ``while_waiting``: it cannot be undone."""
        self._seq += 1
        waiting, self._link.while_waiting = self._link.while_waiting, None
        try:
            final = self._link.ask(Finish(self._id, self._seq, end))
        finally:
            self._link.while_waiting = waiting
        if not isinstance(final, Final):
            raise self._mismatch("Finish")
        return final

    def __enter__(self) -> Session:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Give the place back. After a failure this is tried once, briefly: the cloud also frees idle places itself."""
        self._link.abandon()
        if isinstance(error, CloudUnreachable):
            return
        deadline, self._link.deadline_s = self._link.deadline_s, 2.0
        notice, self._link.on_notice = self._link.on_notice, lambda _: None
        waiting, self._link.while_waiting = self._link.while_waiting, None
        try:
            self._link.ask(Close(self._id, self._seq + 1))
        except (CloudUnreachable, CloudRefused, ProtocolMismatch):
            pass
        finally:
            self._link.deadline_s, self._link.on_notice, self._link.while_waiting = deadline, notice, waiting

    def _mismatch(self, request: str) -> ProtocolMismatch:
        return ProtocolMismatch(f"{self._link.address} answered {request} with another kind of reply")
