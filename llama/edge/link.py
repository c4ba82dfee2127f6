"""The device's side of the network: one REQ socket, and patience.

ZeroMQ's Lazy Pirate: a request whose answer does not come is asked again on a fresh socket, since a REQ socket that
waits for a lost reply is of no further use. Asking again is safe because the cloud recognises a repeated request. A
late answer may also mean a long computation; so silence is followed by Hello, and a cloud that does not answer that
either is counted as gone. How long all of that goes on is said in ``llama.edge.patience``: every wait ends.

A connection that breaks is not waited for: libzmq says so, and the fresh socket tries every few hundred milliseconds
to connect, so that Hello is there as soon as the cloud is. The name of a host is looked up anew for each fresh socket,
since it may mean another address by then; of several addresses the next one is tried where one leads nowhere.

Whoever answers may be anybody. Nothing is waited for in one piece: several times a second the process's memory is
looked at, since a message without end is not seen before it ends, and whoever waits is asked whether to go on.

Knows: addresses, deadlines, ``llama.wire``. Does not know: the model, text.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import msgspec
import torch
import zmq
from zmq.utils.monitor import parse_monitor_message

from llama import memory_ceiling, wire
from llama.addresses import Endpoint, Lookup, NotAnAddress, UnknownHost, known, name_of, tcp_of
from llama.edge.patience import FINISH_DEADLINES, MAX_DEADLINES, Patience
from llama.errors import (
    CloudRefused,
    CloudUnreachable,
    LinkError,
    MemoryCeilingReached,
    ProtocolMismatch,
    RequestUnanswered,
    SplitLlamaError,
    UsageError,
)
from llama.keys import LinkKeys
from llama.memory_ceiling import MemoryCeiling
from llama.sampling import Sampling
from llama.texts import one_line
from llama.wire import (
    Close,
    Collect,
    Error,
    ErrorCode,
    FetchSheet,
    Final,
    Finish,
    Hello,
    ListSheets,
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
LONGEST_HINT_S = 10.0  # a cloud may ask for; it is asked again after that in any case
SLICE_S = 0.05  # the longest piece of a wait; a gigabyte a second may come meanwhile
REMAKE_S = 2.0  # for a socket, where all are in use
END_S = 0.1  # for libzmq's own threads, one of which may be looking a name up
CLOSE_S = 2.0  # that a cloud has to answer Close; it frees idle places itself
CLOSE_STOPPED_S = 0.3  # likewise where the person has had enough
# Bytes of a reply, by request. A sheet comes with the provider's system prompt, 16 MiB each at most; a delivery with a
# sheet. In a Final stands the text of a context's tokens, in Sheets a thousand titles and what those sheets ask for.
REPLY_BYTES: dict[type[Request], int] = {
    FetchSheet: 33 << 20, Collect: 33 << 20, Finish: 16 << 20, ListSheets: 16 << 20,
}  # fmt: skip
SHORT_REPLY_BYTES = 64 << 10  # of all others, and of an Error
MAX_REPLY_BYTES = max(REPLY_BYTES.values())
REPLIES_AHEAD = 2  # that libzmq takes in before they are asked for
WORDS_SHOWN = 2000  # characters of what a cloud says
STOPPING = "the cloud is stopping"  # how a busy cloud says that it is about to end
# A cloud says nothing to a key that it does not list, nor can it to one that expects another cloud.
CHECK_KEYS = "that this key is in the cloud's --allow_dir, and that --cloud_key is that cloud's"
GIVE_KEYS = "if that cloud has keys, give --key_file and --cloud_key"  # nor does it to a device without one


class Stopped(Exception):
    """Whoever waits does not want to any more; raised by ``while_waiting``."""


class Link:
    """A connection to one cloud, remade as often as needed.

    Args:
        address: ``tcp://HOST:PORT``.
        deadline_s: a cloud that gives no sign of life for so long is given up.
        on_notice: told in words about every retry.
        while_waiting: called several times a second while an answer is awaited; it may raise to wait no longer.
        keys: its own, and those of the only cloud that it speaks to; without them anybody may answer, and listen.
        restart_deadline_s: likewise a cloud that had answered and then went away, or said that it is stopping; by
            default that is no longer.
        ceiling: of the process's memory; by default a little more than it has now.

    Attributes:
        silent: the cloud is late with an answer, and did not say that it lives.
        waits_when_busy: a full cloud is asked again, for ``deadline_s``; otherwise its refusal is raised at once.
    """

    def __init__(
        self, address: str, *, deadline_s: float = 30.0, on_notice: Callable[[str], None] = print,
        while_waiting: Callable[[], None] | None = None, keys: LinkKeys | None = None,
        restart_deadline_s: float | None = None, ceiling: MemoryCeiling | None = None,
    ) -> None:  # fmt: skip
        self.address, self.deadline_s, self.on_notice = address, deadline_s, on_notice
        self.while_waiting, self.keys = while_waiting, keys
        self.restart_deadline_s = deadline_s if restart_deadline_s is None else max(deadline_s, restart_deadline_s)
        self.silent, self.waits_when_busy = False, True
        self.bytes_sent = self.bytes_received = 0
        self._ceiling = ceiling or memory_ceiling.of_a_client()
        self._has_answered = False
        self._context = zmq.Context()
        self._pending: tuple[Request, list[bytes | memoryview]] | None = None
        self._sockets_made = 0
        self._joined = self._lost = False  # hands were shaken; and then the connection broke
        self._host = _host_named_in(address)  # empty where it is an IP address
        self._lookup: Lookup | None = None  # under way
        self._nobody = ""  # why nobody is asked: what is wrong with the name of the host
        self._turn = 0  # which of a name's addresses
        self._good: Endpoint | None = None  # the one where hands were shaken last
        self._endpoint: Endpoint | None = None  # what the socket connects to
        self._socket = self._connect()

    def close(self) -> None:
        """Drop the connection and whatever is unsent."""
        self._drop(self._socket)
        # It waits for libzmq's own threads, which a look-up of a name may hold for as long as the system likes.
        ending = threading.Thread(target=self._context.term, name="link's end", daemon=True)
        ending.start()
        ending.join(END_S)

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
            RequestUnanswered: signs of life, but no answer for ``MAX_DEADLINES`` (of Finish ``FINISH_DEADLINES``).
            CloudRefused: a typed Error; ``busy`` only after ``deadline_s`` of it.
            ProtocolMismatch: the answer is not of this protocol.
            MemoryCeilingReached: the process has more memory than it may, since somebody sends without end.
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
        self._pass_over_a_loss()
        self._send(frames)

    def finish(self) -> Reply:
        """The reply to what was begun. Raises as :meth:`ask`."""
        assert self._pending is not None, "nothing was begun"
        request, frames = self._pending
        try:
            reply = self._wait_for_a_place(request, frames)
        except BaseException:
            self.abandon()
            raise
        self._pending = None
        if isinstance(reply, Error):
            raise CloudRefused(reply.code, reply.message, reply.advice, reply.retry_after_s)
        return reply

    def tell(self, request: Request, within_s: float) -> None:
        """Send a request once, and wait a little for an answer, whatever it is; nothing is asked again.

        What else was begun is forgotten. ``while_waiting`` may only end the wait.
        """
        self.abandon()
        give_up, answer = time.monotonic() + within_s, None
        try:
            self._look_at_the_connection()
            if not self._lost:
                self._send([wire.encode(request)], within_s)
                answer = self._receive(give_up - time.monotonic(), request)
        except (LinkError, Stopped):
            pass
        finally:
            if answer is None:
                self._remake()

    def pause(self, seconds: float) -> None:
        """Wait before asking again."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._look_up()
            time.sleep(min(left, SLICE_S))

    def abandon(self) -> None:
        """Forget a request that was begun; its reply can no longer arrive."""
        if self._pending is not None:
            self._pending = None
            self._remake()

    def growing(self) -> AbstractContextManager[None]:
        """In here the caller takes memory that it keeps, which is nobody else's doing."""
        return nullcontext() if self._ceiling is None else self._ceiling.growing()

    # ---- inside: how long

    def _wait_for_a_place(self, request: Request, frames: list[bytes | memoryview]) -> Reply:
        """The reply; a cloud that is busy is asked again with the same bytes."""
        patience = Patience(
            self.deadline_s, self.restart_deadline_s, has_answered=self._has_answered,
            deadlines=FINISH_DEADLINES if isinstance(request, Finish) else MAX_DEADLINES,
        )  # fmt: skip
        told, stale = False, 0
        while True:
            reply = self._wait_for_reply(request, frames, patience)
            if isinstance(reply, Tokens) and reply.seq != getattr(request, "seq", 0):
                stale += 1  # something in between has handed an earlier reply on once more
                if stale > MAX_STALE:
                    raise ProtocolMismatch(f"{self.address} answers an earlier request again and again; tell its "
                                           f"operator")  # fmt: skip
                self._remake()
                self._send(frames)
                continue
            if not isinstance(reply, Error) or reply.code != ErrorCode.BUSY or not self.waits_when_busy:
                return reply
            stopping = reply.message == STOPPING
            # A reply that has begun would be lost if its device were turned away by all that have come back before it.
            begun = isinstance(request, Open) and bool(request.resumed_ids)
            longer = stopping or begun
            if patience.busy(self.restart_deadline_s if longer else self.deadline_s, stopping=stopping):
                return self._turned_away(reply, longer)
            hint = reply.retry_after_s
            if hint == 0:  # it keeps this device's place in a queue, and has held the request for a while
                if not told:
                    self.on_notice("the cloud is full; waiting for a place")
                told = True
                self.pause(AT_ONCE_S)
            else:
                wait = min(max(hint, 0.1), LONGEST_HINT_S) if hint is not None and math.isfinite(hint) else 1.0
                if patience.is_news(reply.message, patience.in_all_s) or not stopping:
                    until = f" (giving up after {self.restart_deadline_s:.0f} s)" if stopping else ""
                    self.on_notice(f"the cloud is busy: {one_line(reply.message)}; asking again in {wait:.1f} s{until}")
                self.pause(min(wait, patience.busy_left_s + AT_ONCE_S))
            self._pass_over_a_loss()
            self._send(frames)

    def _turned_away(self, reply: Error, longer: bool) -> Error:
        """What is said of a cloud that was busy for too long."""
        flag, seconds = "--deadline", self.deadline_s
        if longer and self.restart_deadline_s > self.deadline_s:
            flag, seconds = "--restart_deadline", self.restart_deadline_s
        return Error(reply.code, f"{reply.message}; it was asked again for {seconds:.0f} s",
                     f"try again later, or wait longer with {flag}", reply.retry_after_s)  # fmt: skip

    def _wait_for_reply(self, request: Request, frames: list[bytes | memoryview], patience: Patience) -> Reply:
        is_hello = isinstance(request, Hello)
        self._give_up_if_nobody_is_known(patience)
        # Half the deadline at most, so that however short it is the cloud is asked whether it lives.
        reply = self._receive(min(HELLO_PATIENCE_S[0] if is_hello else STEP_PATIENCE_S, self.deadline_s / 2), request)
        attempt = losses = 0
        lives = False  # it has said so since it was given the request
        while reply is None:
            patience.missed(connected=self._joined and not self._lost)
            self._give_up_if_nobody_is_known(patience)
            self._give_up_if_over(patience)
            self.silent = True
            if self._lost:
                losses += 1
                self._bear_a_loss(losses, patience)
            else:
                self._say_that_it_is_late(patience, lives)
                attempt += 1
            lives, give_up_s = False, max(0.1, patience.left_s)
            self._remake()
            self._send([wire.encode(Hello(wire.VERSION))])
            hello = request if is_hello else Hello(wire.VERSION)
            sign_of_life = self._receive(
                min(HELLO_PATIENCE_S[min(attempt, len(HELLO_PATIENCE_S) - 1)], give_up_s), hello
            )
            if sign_of_life is None:
                continue
            if is_hello:
                return sign_of_life
            patience.lives()
            attempt, lives = 0, True
            self._give_up_if_over(patience)
            self._send(frames)
            reply = self._receive(max(0.1, min(STEP_PATIENCE_S, self.deadline_s / 2, patience.left_s)), request)
        return reply

    def _say_that_it_is_late(self, patience: Patience, lives: bool) -> None:
        if not lives:
            if patience.is_news("silent", patience.silent_s):
                self.on_notice(f"no answer from {self.address} for {patience.silent_s:.0f} s; asking again "
                               f"(giving up after {patience.silence_limit_s:.0f} s)")  # fmt: skip
        elif patience.is_news("unanswered", patience.unanswered_s):
            self.silent = False
            self.on_notice(f"the cloud at {self.address} lives, but has not answered this request for "
                           f"{patience.unanswered_s:.0f} s; waiting (giving up after "
                           f"{patience.unanswered_limit_s:.0f} s)")  # fmt: skip

    def _give_up_if_over(self, patience: Patience) -> None:
        over = patience.over
        if over is None:
            return
        if over == "unanswered":
            raise RequestUnanswered(f"the cloud at {self.address} says that it lives, but has not answered this "
                                    f"request for {patience.unanswered_s:.0f} s; try again later, tell its operator, "
                                    f"or wait longer with --deadline")  # fmt: skip
        if over == "in_all":
            raise RequestUnanswered(f"the cloud at {self.address} has not answered this request for "
                                    f"{patience.in_all_s:.0f} s, in which it went away, came back or was busy again "
                                    f"and again; try again later, or tell its operator")  # fmt: skip
        none = f"no answer from {self.address} for {patience.silent_s:.0f} s"
        if self._nobody:
            raise CloudUnreachable(f"{none}: {self._nobody}")
        if self._lookup is not None:
            raise CloudUnreachable(f"{none}: this machine's look-up of the name {self._host} takes longer; check its "
                                   f"name service, or give the IP address")  # fmt: skip
        if patience.away and self.restart_deadline_s > self.deadline_s:
            raise CloudUnreachable(f"{none}, which had answered before; check that cloud_main.py runs there; where it "
                                   f"takes longer to start, give a longer --restart_deadline")  # fmt: skip
        raise CloudUnreachable(
            f"{none}; check that cloud_main.py runs there, that the address is right and that no firewall is in between"
            f"{f'; and {GIVE_KEYS}' if self.keys is None else f'; also {CHECK_KEYS}'}"
        )

    def _give_up_if_nobody_is_known(self, patience: Patience) -> None:
        """At once, unless the cloud has answered before: then its name is one, and may be known again soon."""
        if self._nobody and not patience.has_answered:
            raise CloudUnreachable(f"no way to {self.address}: {self._nobody}")

    def _bear_a_loss(self, losses: int, patience: Patience) -> None:
        """The connection broke under a request, ``losses`` times by now: the first is told, the later ones waited out.

        A cloud that restarts breaks it once. More often is a bad line, or something that breaks it because of what is
        sent; neither is to be asked as fast as it answers.
        """
        if losses == 1:
            self.on_notice(f"the connection to {self.address} broke; asking again as soon as it is back "
                           f"(giving up after {patience.silence_limit_s:.0f} s)")  # fmt: skip
        elif losses >= MAX_LOSSES:
            raise CloudUnreachable(f"the connection to {self.address} broke {losses} times under one request; "
                                   f"check what is in between")  # fmt: skip
        else:
            self.pause(min(RECONNECT_MS / 1000 * 2 ** (losses - 2), STEP_PATIENCE_S, self.deadline_s / 8))

    def _look_up(self) -> None:
        """Between two pieces of a wait: whether to go on. May raise whatever ``while_waiting`` does."""
        if self._ceiling is not None:
            self._ceiling.check()
        if self.while_waiting is not None:
            self.while_waiting()

    # ---- inside: the socket

    def _connect(self) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
        socket.setsockopt(zmq.RCVHWM, REPLIES_AHEAD)
        if self.keys is not None:
            socket.setsockopt(zmq.CURVE_SECRETKEY, self.keys.own.secret.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self.keys.own.identity.public.encode())
            socket.setsockopt(zmq.CURVE_SERVERKEY, self.keys.cloud.public.encode())
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        try:
            self._watch(socket)
        except zmq.ZMQError:
            socket.close(linger=0)
            raise
        self._endpoint = None
        if not self._host:
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
            found = self._lookup.wait(give_up - time.monotonic(), self._look_up)
        except UnknownHost as err:
            self._lookup, self._nobody = None, str(err)
            return False
        if found is None:
            return False
        self._lookup, self._nobody = None, ""
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
        self._joined = self._lost = self._was_joined = False

    def _look_at_the_connection(self) -> None:
        """Read what libzmq said. Nothing is sent before the handshake, so a failed attempt to connect is no loss."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            self._lost = self._lost or (self._joined and event == zmq.Event.DISCONNECTED)
            self._joined = event == zmq.Event.HANDSHAKE_SUCCEEDED
            if self._joined:
                self._was_joined, self._good = True, self._endpoint

    def _pass_over_a_loss(self) -> None:
        """The connection broke before a request, which goes out with the next one: to where the name leads by now."""
        self._look_at_the_connection()
        if self._lost and self._host:
            self._remake()
        self._lost = False

    def _drop(self, socket: zmq.Socket[bytes]) -> None:
        if not socket.closed:
            socket.disable_monitor()
        self._monitor.close(linger=0)
        socket.close(linger=0)

    def _remake(self) -> None:
        if self._endpoint is not None and not self._socket.closed:
            self._look_at_the_connection()
            if not self._was_joined:
                self._good, self._turn = None, self._turn + 1
        self._drop(self._socket)
        give_up = time.monotonic() + REMAKE_S
        while True:
            try:
                self._socket = self._connect()
                return
            except zmq.ZMQError as err:  # libzmq takes down in its own time what was closed
                if time.monotonic() > give_up:
                    raise LinkError(f"no socket to reach {self.address} with ({err.strerror}); too many files are "
                                    f"open here") from None  # fmt: skip
            time.sleep(AT_ONCE_S)

    def _send(self, frames: Sequence[bytes | memoryview], patience_s: float | None = None) -> None:
        self.bytes_sent += sum(map(len, frames))
        # libzmq gives up, for good, a connection whose handshake was garbled; a send would wait for another for ever.
        give_up = time.monotonic() + (
            min(HELLO_PATIENCE_S[0], self.deadline_s / 2) if patience_s is None else patience_s
        )
        if not self._reach(give_up):
            return
        while not self._socket.poll(_slice_ms(give_up), zmq.POLLOUT):
            if time.monotonic() >= give_up:
                self._lost = True
                return
            self._look_up()
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:  # the connection went between the look and the sending
            self._lost = True

    def _receive(self, patience_s: float, request: Request) -> Reply | None:
        """What comes to ``request`` within ``patience_s``; None also at once when the connection breaks."""
        give_up = time.monotonic() + patience_s
        while True:
            events = dict(self._poller.poll(0 if self._lost else _slice_ms(give_up)))
            if self._socket in events and (frame := self._frame()) is not None:
                break
            if self._monitor in events:
                self._look_at_the_connection()
            if self._lost or time.monotonic() >= give_up:
                return None
            self._look_up()
        self.silent, self._has_answered = False, True
        self.bytes_received += len(frame)
        most = REPLY_BYTES.get(type(request), SHORT_REPLY_BYTES)
        try:
            if frame.more:
                raise ValueError("2 frames or more")
            if len(frame) > most:
                raise ValueError(f"{len(frame)} bytes, where {most} are the most")
            reply = wire.decode_reply(frame.bytes)
        except ValueError as err:
            raise ProtocolMismatch(f"{self.address} answered, but not in this protocol ({err})"[:WORDS_SHOWN]) from None
        if isinstance(reply, Error):  # whatever is shown of it
            return Error(reply.code, reply.message[:WORDS_SHOWN], reply.advice[:WORDS_SHOWN], reply.retry_after_s)
        return reply

    def _frame(self) -> zmq.Frame | None:
        """The first frame of what has come; None where that is no reply of a REP's, and libzmq has passed over it."""
        try:
            return self._socket.recv(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return None


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
    return UsageError(f"--cloud {address} is not an address to connect to{f': {why}' if why else ''}; write "
                      f"tcp://HOST:PORT")  # fmt: skip


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
        """The reply is outputs ``0 … end-1``: its text. It cannot be undone, also where it is not waited for."""
        self._seq += 1
        final = self._link.ask(Finish(self._id, self._seq, end))
        if not isinstance(final, Final):
            raise self._mismatch("Finish")
        return final

    def __enter__(self) -> Session:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Give the place back. This is tried once, briefly: the cloud also frees idle places itself."""
        gone = isinstance(error, CloudUnreachable) and not isinstance(error, RequestUnanswered)
        if gone or isinstance(error, MemoryCeilingReached):
            self._link.abandon()
            return
        stopped = error is not None and not isinstance(error, SplitLlamaError)  # Ctrl-C, Stop, a broken pipe
        waiting = self._link.while_waiting
        if stopped:  # it would say so once more
            self._link.while_waiting = None
        try:
            brief = stopped or isinstance(error, RequestUnanswered)
            self._link.tell(Close(self._id, self._seq + 1), CLOSE_STOPPED_S if brief else CLOSE_S)
        finally:
            self._link.while_waiting = waiting

    def _mismatch(self, request: str) -> ProtocolMismatch:
        return ProtocolMismatch(f"{self._link.address} answered {request} with another kind of reply")
