"""Requests to one cloud and its replies, asked again until they come or the time is over.

ZeroMQ's Lazy Pirate: a request whose answer does not come is asked again on a fresh socket. Asking again is safe
because the cloud recognises a repeated request. A late answer may also mean a long computation; so silence is followed
by Hello, the heartbeat, and a cloud that does not answer that either is counted as gone. ``llama.client.timeouts`` says
how long all of that goes on: every wait ends.

Whoever answers may be anybody. Several times a second the process's memory is looked at, since a message without end is
not seen before it ends, and whoever waits is asked whether to go on.

Knows: ``llama.wire``, deadlines, when something is said; the words are in ``llama.client.wording``.
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

HELLO_TIMEOUTS_S = (1.0, 2.0, 4.0, 5.0)  # a handshake is answered at once; the last entry repeats
STEP_TIMEOUT_S = 5.0  # a computation may take longer: then the cloud is asked whether it lives
MAX_STALE = 3  # replies to earlier requests, for one request
MAX_DISCONNECTS = 12  # in a row, of the connection over which one request was sent
AT_ONCE_S = 0.05  # before asking again a cloud that has done the waiting itself
LONGEST_HINT_S = 10.0  # a cloud may ask for; it is asked again after that in any case
# Bytes of a reply, by request. A sheet comes with the provider's system prompt, 16 MiB each at most; a delivery with a
# sheet. In a Final stands the text of a context's tokens, in Sheets a thousand titles and what those sheets ask for.
REPLY_BYTES: dict[type[Request], int] = {
    FetchSheet: 33 << 20,
    Collect: 33 << 20,
    Finish: 16 << 20,
    ListSheets: 16 << 20,
}
SHORT_REPLY_BYTES = 64 << 10  # of all others, and of an Error
MAX_REPLY_BYTES = max(REPLY_BYTES.values())
WORDS_SHOWN = 2000  # characters of what a cloud says
STOPPING = "the cloud is stopping"  # how a busy cloud says that it is about to end

Frame = bytes | memoryview


class Stopped(Exception):
    """Whoever waits does not want to any more; raised by ``while_waiting``."""


class Link:
    """Asks one cloud, one request at a time.

    Args:
        address: ``tcp://HOST:PORT``.
        deadline_s: a cloud that gives no heartbeat for so long is given up.
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
        """All that has left this program so far."""
        return self.connection.bytes_sent

    @property
    def bytes_received(self) -> int:
        """All that has come so far."""
        return self.connection.bytes_received

    def close(self) -> None:
        """Drop the connection and whatever is unsent."""
        self.connection.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> Welcome:
        """Send Hello; return the cloud's Welcome.

        Raises:
            CloudUnreachable, CloudRefused, ProtocolMismatch: see :meth:`ask`.
        """
        welcome = self.ask(Hello(wire.VERSION))
        if not isinstance(welcome, Welcome) or welcome.version != wire.VERSION or not _is_usable(welcome):
            raise ProtocolMismatch(f"{self.address} answered Hello with something else; is it a cloud of this release?")
        return welcome

    def ask(self, request: Request, hidden: Frame | None = None) -> Reply:
        """Send one request, with the frame of hidden states that belongs to it; return its reply.

        Raises:
            CloudUnreachable: no heartbeat for ``deadline_s``, or the connection breaks again and again.
            RequestUnanswered: heartbeats, but no answer for ``MAX_DEADLINES`` (of Finish ``FINISH_DEADLINES``).
            CloudRefused: a typed Error; ``busy`` only after ``deadline_s`` of it.
            ProtocolMismatch: the answer is not of this protocol.
            MemoryCeilingReached: the process has more memory than it may, since somebody sends without end.
        """
        self.begin(request, hidden)
        return self.finish()

    def begin(self, request: Request, hidden: Frame | None = None) -> None:
        """Send a request; :meth:`finish` waits for the reply. In between the caller may compute."""
        assert self._pending is None, "a REQ socket has one request at a time"
        frames: list[Frame] = [wire.encode(request)]
        if hidden is not None:
            frames.append(hidden)
        self._pending = (request, frames)
        self.connection.remake_if_lost()
        self._send(frames)

    def finish(self) -> Reply:
        """Wait for the reply to what was begun. Raises as :meth:`ask`."""
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
        """Send a request once, and wait a little for an answer, whatever it is; nothing is asked again.

        What else was begun is forgotten. ``while_waiting`` may only end the wait.
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
        """Forget a request that was begun; its reply can no longer arrive."""
        if self._pending is not None:
            self._pending = None
            self.connection.remake()

    def growing(self) -> AbstractContextManager[None]:
        """In here the caller takes memory that it keeps, which is nobody else's doing."""
        return nullcontext() if self._ceiling is None else self._ceiling.growing()

    # ---- inside: asking again

    def _ask_until_not_busy(self, request: Request, frames: list[Frame]) -> Reply:
        """Return the reply; a cloud that is busy is asked again with the same bytes."""
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
                stale += 1  # something in between has handed an earlier reply on once more
                if stale > MAX_STALE:
                    problem = f"{self.address} answers an earlier request again and again; tell its operator"
                    raise ProtocolMismatch(problem)
                self.connection.remake()
                self._send(frames)
                continue
            if not isinstance(reply, Error) or reply.code != ErrorCode.BUSY or not self.waits_when_busy:
                return reply
            stopping = reply.message == STOPPING
            # A reply that has begun would be lost if its device were turned away by all that have come back before it.
            begun = isinstance(request, Open) and bool(request.resumed_ids)
            longer = stopping or begun
            if timeouts.busy(self.restart_deadline_s if longer else self.deadline_s, stopping=stopping):
                return wording.busy_for_too_long(reply, timeouts, longer)
            notified = self._back_off(reply, timeouts, notified=notified, stopping=stopping)
            self.connection.remake_if_lost()
            self._send(frames)

    def _back_off(self, reply: Error, timeouts: Timeouts, *, notified: bool, stopping: bool) -> bool:
        """Wait for as long as a busy cloud asks for; whether the person was told of a queue, now or before."""
        hint = reply.retry_after_s
        if hint == 0:  # it keeps this device's place in a queue, and has held the request for a while
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
        """Return the reply, whatever it is; on silence the heartbeat is asked for, and then the request again."""
        is_hello = isinstance(request, Hello)
        self._raise_if_host_unknown(timeouts)
        # Half the deadline at most, so that however short it is the cloud is asked whether it lives.
        reply = self._receive(min(HELLO_TIMEOUTS_S[0] if is_hello else STEP_TIMEOUT_S, self.deadline_s / 2), request)
        attempt = disconnects = 0
        lives = False  # it has said so since it was given the request
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
        """Wait for what comes to ``request``; None after ``timeout_s``, or at once when the connection breaks."""
        frame = self.connection.receive(timeout_s)
        if frame is None:
            return None
        self.silent, self._has_answered = False, True
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

    def _between_waits(self) -> None:
        """Whether to go on waiting. May raise whatever ``while_waiting`` does."""
        if self._ceiling is not None:
            self._ceiling.check()
        if self.while_waiting is not None:
            self.while_waiting()

    # ---- inside: when something is said, and when it is over

    def _report_delay(self, timeouts: Timeouts, lives: bool) -> None:
        if not lives:
            if timeouts.is_news("silent", timeouts.silent_s):
                self.on_notice(wording.silent(self.address, timeouts))
        elif timeouts.is_news("unanswered", timeouts.unanswered_s):
            self.silent = False
            self.on_notice(wording.unanswered(self.address, timeouts))

    def _back_off_after_disconnect(self, disconnects: int, timeouts: Timeouts) -> None:
        """Report the first disconnect under a request; wait after the later ones.

        A cloud that restarts breaks the connection once. More often is a bad line, or something that breaks it because
        of what is sent; neither is to be asked as fast as it answers.
        """
        if disconnects == 1:
            self.on_notice(wording.broke(self.address, timeouts))
        elif disconnects >= MAX_DISCONNECTS:
            raise wording.broke_too_often(self.address, disconnects)
        else:
            self.pause(min(RECONNECT_MS / 1000 * 2 ** (disconnects - 2), STEP_TIMEOUT_S, self.deadline_s / 8))

    def _raise_if_host_unknown(self, timeouts: Timeouts) -> None:
        """At once, unless the cloud has answered before: then its name is one, and may be known again soon."""
        if self.connection.host_problem and not timeouts.has_answered:
            raise wording.host_unknown(self.connection)

    def _raise_if_timed_out(self, timeouts: Timeouts) -> None:
        if (expired := timeouts.expired) is not None:
            raise wording.timed_out(expired, timeouts, self.connection, has_keys=self.keys is not None)


def _is_usable(welcome: Welcome) -> bool:
    return welcome.dtype in wire.DTYPE_BYTES and welcome.max_rows > 0 and welcome.dim > 0
