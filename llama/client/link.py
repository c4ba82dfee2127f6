"""Requests to one cloud and its replies. A request is repeated until a reply comes or a limit expires.

This is ZeroMQ's Lazy Pirate pattern: without a reply, the client sends the request again on a new socket. That is safe
because the cloud recognises a repeated request. A late reply may also mean a long computation. So the client first
sends Hello, the heartbeat. A cloud that does not answer Hello either counts as gone. Every wait ends:
``llama.client.timeouts`` has the limits.

The peer may be hostile. A message without end is invisible until it ends, so the client checks the process's memory
several times a second. Equally often it lets the caller end the wait.

Knows: ``llama.wire``, deadlines, the time of each notice (``llama.client.wording`` has the words).
Does not know: sockets, the model, text, torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from llama import memory_ceiling, wire
from llama.client import wording
from llama.client.connection import RECONNECT_MS, SLICE_S, Connection
from llama.client.timeouts import FINISH_DEADLINES, MAX_DEADLINES, Timeouts
from llama.errors import CloudRefused, LinkError, ProtocolMismatch
from llama.keys import LinkKeys
from llama.memory_ceiling import MemoryCeiling
from llama.wire import (
    Collect,
    Error,
    ErrorCode,
    FetchSheet,
    Finish,
    Hello,
    ListSheets,
    Open,
    Reply,
    Request,
    Tokens,
    Welcome,
)

HELLO_TIMEOUTS_S = (1.0, 2.0, 4.0, 5.0)  # the cloud answers Hello immediately; the last entry repeats
STEP_TIMEOUT_S = 5.0  # a computation may take longer; then the client sends Hello
MAX_STALE = 3  # replies to earlier requests, per request
MAX_DISCONNECTS = 12  # in a row, during one request
AT_ONCE_S = 0.05  # pause before asking again, if the cloud held the request while it was busy
LONGEST_HINT_S = 10.0  # longest wait that a cloud may ask for
# Maximum bytes of a reply, by request. A sheet comes with the provider's system prompt (at most 16 MiB each), and a
# delivery with a sheet. A Final has the text of a whole context. Sheets has a thousand titles and field lists.
REPLY_BYTES: dict[type[Request], int] = {
    FetchSheet: 33 << 20,
    Collect: 33 << 20,
    Finish: 16 << 20,
    ListSheets: 16 << 20,
}
SHORT_REPLY_BYTES = 64 << 10  # for all other replies; an Error is not longer either
MAX_REPLY_BYTES = max(REPLY_BYTES.values())
WORDS_SHOWN = 2000  # maximum characters of a cloud's message that are shown
STOPPING = "the cloud is stopping"  # message of a busy cloud that is about to stop

Frame = bytes | memoryview


class Stopped(Exception):
    """Signal that the caller ends the wait. ``while_waiting`` raises it."""


class Link:
    """Connection to one cloud for requests, one at a time.

    Args:
        address: ``tcp://HOST:PORT``.
        deadline_s: seconds without a heartbeat after which the client gives up.
        on_notice: called with a notice in words about every retry.
        while_waiting: called several times a second during a wait for an answer. It may raise to end the wait.
        keys: its own pair, and the key of the one cloud that it trusts. Without keys, the cloud is not authenticated
            and the traffic is not encrypted.
        restart_deadline_s: the same limit for a cloud that answered and then went away, or said that it is stopping.
            The default is ``deadline_s``.
        ceiling: limit of the process's memory; by default a little more than it has now.

    Attributes:
        silent: an answer is late, and no heartbeat came.
        waits_when_busy: repeat a request to a busy cloud for ``deadline_s``; if False, raise its refusal at once.
    """

    def __init__(
        self,
        address: str,
        *,
        deadline_s: float = 30.0,
        on_notice: Callable[[str], None] = print,
        while_waiting: Callable[[], None] | None = None,
        keys: LinkKeys | None = None,
        restart_deadline_s: float | None = None,
        ceiling: MemoryCeiling | None = None,
    ) -> None:
        self.address, self.deadline_s, self.on_notice = address, deadline_s, on_notice
        self.while_waiting, self.keys = while_waiting, keys
        self.restart_deadline_s = deadline_s if restart_deadline_s is None else max(deadline_s, restart_deadline_s)
        self.silent, self.waits_when_busy = False, True
        self._ceiling = ceiling or memory_ceiling.of_a_client()
        self._has_answered = False
        self._pending: tuple[Request, list[Frame]] | None = None
        self.connection = Connection(
            address, keys=keys, max_reply_bytes=MAX_REPLY_BYTES, between_waits=self._between_waits
        )

    @property
    def bytes_sent(self) -> int:
        """Bytes that this connection has sent so far."""
        return self.connection.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes that this connection has received so far."""
        return self.connection.bytes_received

    def close(self) -> None:
        """Close the connection and drop unsent data."""
        self.connection.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> Welcome:
        """Send Hello and return the cloud's Welcome.

        Raises:
            CloudUnreachable, CloudRefused, ProtocolMismatch: see :meth:`ask`.
        """
        welcome = self.ask(Hello(wire.VERSION))
        if not isinstance(welcome, Welcome) or welcome.version != wire.VERSION or not _is_usable(welcome):
            raise ProtocolMismatch(f"{self.address} answered Hello with something else; is it a cloud of this release?")
        return welcome

    def ask(self, request: Request, hidden: Frame | None = None) -> Reply:
        """Send one request, with its frame of hidden states if it has one. Return its reply.

        Raises:
            CloudUnreachable: no heartbeat for ``deadline_s``, or the connection breaks again and again.
            RequestUnanswered: heartbeats, but no answer for ``MAX_DEADLINES`` (for Finish ``FINISH_DEADLINES``).
            CloudRefused: a typed Error; ``busy`` only after ``deadline_s``.
            ProtocolMismatch: the answer is not of this protocol.
            MemoryCeilingReached: the process exceeds its memory limit, because the peer sends without end.
        """
        self.begin(request, hidden)
        return self.finish()

    def begin(self, request: Request, hidden: Frame | None = None) -> None:
        """Send a request. :meth:`finish` waits for the reply; in between the caller can compute."""
        assert self._pending is None, "a REQ socket has one request at a time"
        frames: list[Frame] = [wire.encode(request)]
        if hidden is not None:
            frames.append(hidden)
        self._pending = (request, frames)
        self.connection.remake_if_lost()
        self._send(frames)

    def finish(self) -> Reply:
        """Wait for the reply to the request of :meth:`begin`. Raise as :meth:`ask`."""
        assert self._pending is not None, "nothing was begun"
        request, frames = self._pending
        try:
            reply = self._ask_until_not_busy(request, frames)
        except BaseException:
            self.abandon()
            raise
        self._pending = None
        if isinstance(reply, Error):
            raise CloudRefused(reply.code, reply.message, reply.advice, reply.retry_after_s)
        return reply

    def tell(self, request: Request, within_s: float) -> None:
        """Send a request once, and wait up to ``within_s`` for any answer. Never repeat it.

        An earlier request that was begun is abandoned. If ``while_waiting`` raises Stopped, the wait ends without an
        error.
        """
        self.abandon()
        give_up, answer = time.monotonic() + within_s, None
        try:
            self.connection.read_events()
            if not self.connection.was_lost:
                self.connection.send([wire.encode(request)], within_s)
                answer = self._receive(give_up - time.monotonic(), request)
        except (LinkError, Stopped):
            pass
        finally:
            if answer is None:
                self.connection.remake()

    def pause(self, seconds: float) -> None:
        """Wait before asking again."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._between_waits()
            time.sleep(min(left, SLICE_S))

    def abandon(self) -> None:
        """Abandon the request of :meth:`begin`. Its reply can no longer arrive."""
        if self._pending is not None:
            self._pending = None
            self.connection.remake()

    def growing(self) -> AbstractContextManager[None]:
        """Return a context in which the caller allocates memory that it keeps. The memory limit grows by it."""
        return nullcontext() if self._ceiling is None else self._ceiling.growing()

    # ---- inside: asking again

    def _ask_until_not_busy(self, request: Request, frames: list[Frame]) -> Reply:
        """Return the reply. If the cloud is busy, send the same bytes again."""
        timeouts = Timeouts(
            self.deadline_s,
            self.restart_deadline_s,
            has_answered=self._has_answered,
            deadlines=FINISH_DEADLINES if isinstance(request, Finish) else MAX_DEADLINES,
        )
        notified, stale = False, 0
        while True:
            reply = self._ask_until_answered(request, frames, timeouts)
            if isinstance(reply, Tokens) and reply.seq != getattr(request, "seq", 0):
                stale += 1  # something in between has delivered an earlier reply again
                if stale > MAX_STALE:
                    problem = f"{self.address} answers an earlier request again and again; tell its operator"
                    raise ProtocolMismatch(problem)
                self.connection.remake()
                self._send(frames)
                continue
            if not isinstance(reply, Error) or reply.code != ErrorCode.BUSY or not self.waits_when_busy:
                return reply
            stopping = reply.message == STOPPING
            # A reply that has begun would be lost if the cloud, full of devices that came back earlier, refused it.
            begun = isinstance(request, Open) and bool(request.resumed_ids)
            longer = stopping or begun
            if timeouts.busy(self.restart_deadline_s if longer else self.deadline_s, stopping=stopping):
                return wording.busy_for_too_long(reply, timeouts, longer)
            notified = self._back_off(reply, timeouts, notified=notified, stopping=stopping)
            self.connection.remake_if_lost()
            self._send(frames)

    def _back_off(self, reply: Error, timeouts: Timeouts, *, notified: bool, stopping: bool) -> bool:
        """Wait as long as the busy cloud asks. Return whether the person was notified of a queue, now or before."""
        hint = reply.retry_after_s
        if hint == 0:  # the cloud keeps this device's place in the slot queue, and has held the request for a while
            if not notified:
                self.on_notice(wording.FULL)
            self.pause(AT_ONCE_S)
            return True
        wait = min(max(hint, 0.1), LONGEST_HINT_S) if hint is not None and math.isfinite(hint) else 1.0
        if timeouts.is_news(reply.message, timeouts.in_all_s) or not stopping:
            self.on_notice(wording.busy(reply.message, wait, self.restart_deadline_s if stopping else None))
        self.pause(min(wait, timeouts.busy_left_s + AT_ONCE_S))
        return notified

    def _ask_until_answered(self, request: Request, frames: list[Frame], timeouts: Timeouts) -> Reply:
        """Return any reply. If none comes, send Hello, and after its answer the request again."""
        is_hello = isinstance(request, Hello)
        self._raise_if_host_unknown(timeouts)
        # At most half the deadline, so that Hello is sent before even a short deadline expires.
        reply = self._receive(min(HELLO_TIMEOUTS_S[0] if is_hello else STEP_TIMEOUT_S, self.deadline_s / 2), request)
        attempt = disconnects = 0
        lives = False  # a heartbeat came since the request was sent
        while reply is None:
            connected = self.connection.is_up and not self.connection.was_lost
            timeouts.missed(connected=connected)
            self._raise_if_host_unknown(timeouts)
            self._raise_if_timed_out(timeouts)
            self.silent = True
            if self.connection.was_lost:
                disconnects += 1
                self._back_off_after_disconnect(disconnects, timeouts)
            else:
                self._report_delay(timeouts, lives)
                attempt += 1
            lives, give_up_s = False, max(0.1, timeouts.left_s)
            self.connection.remake()
            hello = request if is_hello else Hello(wire.VERSION)
            self._send([wire.encode(Hello(wire.VERSION))])
            hello_timeout_s = HELLO_TIMEOUTS_S[min(attempt, len(HELLO_TIMEOUTS_S) - 1)]
            heartbeat = self._receive(min(hello_timeout_s, give_up_s), hello)
            if heartbeat is None:
                continue
            if is_hello:
                return heartbeat
            timeouts.heartbeat()
            attempt, lives = 0, True
            self._raise_if_timed_out(timeouts)
            self._send(frames)
            reply = self._receive(max(0.1, min(STEP_TIMEOUT_S, self.deadline_s / 2, timeouts.left_s)), request)
        return reply

    def _send(self, frames: list[Frame]) -> None:
        self.connection.send(frames, min(HELLO_TIMEOUTS_S[0], self.deadline_s / 2))

    def _receive(self, timeout_s: float, request: Request) -> Reply | None:
        """Wait for the reply to ``request``. Return None after ``timeout_s``, or at once if the connection breaks."""
        frame = self.connection.receive(timeout_s)
        if frame is None:
            return None
        self.silent, self._has_answered = False, True
        most = REPLY_BYTES.get(type(request), SHORT_REPLY_BYTES)
        try:
            if frame.more:
                raise ValueError("2 frames or more")
            if len(frame) > most:
                raise ValueError(f"{len(frame)} bytes, more than the maximum of {most}")
            reply = wire.decode_reply(frame.bytes)
        except ValueError as err:
            raise ProtocolMismatch(f"{self.address} answered, but not in this protocol ({err})"[:WORDS_SHOWN]) from None
        if isinstance(reply, Error):  # it may be shown, so limit its length
            return Error(reply.code, reply.message[:WORDS_SHOWN], reply.advice[:WORDS_SHOWN], reply.retry_after_s)
        return reply

    def _between_waits(self) -> None:
        """Check the memory limit and call ``while_waiting``. Either may raise to end the wait."""
        if self._ceiling is not None:
            self._ceiling.check()
        if self.while_waiting is not None:
            self.while_waiting()

    # ---- inside: notices and limits

    def _report_delay(self, timeouts: Timeouts, lives: bool) -> None:
        if not lives:
            if timeouts.is_news("silent", timeouts.silent_s):
                self.on_notice(wording.silent(self.address, timeouts))
        elif timeouts.is_news("unanswered", timeouts.unanswered_s):
            self.silent = False
            self.on_notice(wording.unanswered(self.address, timeouts))

    def _back_off_after_disconnect(self, disconnects: int, timeouts: Timeouts) -> None:
        """Report the first disconnect during a request. Wait after each later one.

        A cloud that restarts breaks the connection once. Several breaks mean a bad line, or a peer that rejects the
        bytes of the request. Fast retries would not help in either case.
        """
        if disconnects == 1:
            self.on_notice(wording.broke(self.address, timeouts))
        elif disconnects >= MAX_DISCONNECTS:
            raise wording.broke_too_often(self.address, disconnects)
        else:
            self.pause(min(RECONNECT_MS / 1000 * 2 ** (disconnects - 2), STEP_TIMEOUT_S, self.deadline_s / 8))

    def _raise_if_host_unknown(self, timeouts: Timeouts) -> None:
        """Raise if the host name is unknown. If the cloud has answered before, do not: the name may work again soon."""
        if self.connection.host_problem and not timeouts.has_answered:
            raise wording.host_unknown(self.connection)

    def _raise_if_timed_out(self, timeouts: Timeouts) -> None:
        if (expired := timeouts.expired) is not None:
            raise wording.timed_out(expired, timeouts, self.connection, has_keys=self.keys is not None)


def _is_usable(welcome: Welcome) -> bool:
    return welcome.dtype in wire.DTYPE_BYTES and welcome.max_rows > 0 and welcome.dim > 0
