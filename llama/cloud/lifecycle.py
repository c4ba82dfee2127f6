"""The lifecycle of sessions: the slot queue, opening, closing, and ending sessions that may not stay.

Only the I/O thread uses it.

Knows: sessions, requests to open and close, the clock. Does not know: sockets, tensors, the content of runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from llama import wire
from llama.cloud.event_log import EventLog
from llama.cloud.jobs import ClearSlot, FillSlot, ModelJob
from llama.cloud.metrics import Metrics
from llama.cloud.prefix_cache import CachedPrefix
from llama.cloud.rate_limit import RateLimiter
from llama.cloud.sessions import EndReason, Session, Sessions
from llama.sheets import Listed
from llama.wire import Close, Closed, Error, ErrorCode, Open, Opened, Refused, Welcome


class SessionLifecycle:
    """Slot queue, opening and ending of the sessions of one cloud.

    Args:
        welcome: the reply to a device's Hello. Its limits are enforced here.
        n_words: number of the tokenizer's ids; other ids are refused.
        sessions: the open sessions and the slot queue.
        listed: returns the cloud's sheet for a prompt id.
        send: sends a reply to a peer that waits.
        submit_to_model: queues a job for the model.
        max_runs_s: runs that one key, or without keys one connection, may begin in a second.
        metrics, event_log: record which sessions open and end.
        clock: monotonic seconds.

    Attributes:
        prefixes: the prefix cache, by the ids that devices name.
        draining: returns True once no session may be opened.
    """

    def __init__(
        self,
        welcome: Welcome,
        n_words: int,
        sessions: Sessions,
        *,
        listed: Callable[[str], Listed | None],
        send: Callable[[bytes, bytes], None],
        submit_to_model: Callable[[ModelJob], None],
        max_runs_s: float,
        metrics: Metrics,
        event_log: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self.prefixes: Mapping[bytes, CachedPrefix] = {}
        self.draining: Callable[[], bool] = lambda: False
        self.sessions = sessions
        self._welcome, self._n_words, self._listed = welcome, n_words, listed
        self._send, self._submit_to_model = send, submit_to_model
        self._run_limiter = RateLimiter(math.inf, max_runs_s, 0, clock)
        self._metrics, self._event_log = metrics, event_log

    def open(self, request: Open, digest: bytes, peer: bytes, owner: str) -> Opened | None:
        """Return the run's open session if this Open repeats the one that opened it. Otherwise queue the Open.

        Returns None if the request waits for a slot; :meth:`admit` sends the reply later.

        Raises:
            Refused: the request is invalid, the cloud is draining, or a rate or the queue is full.
        """
        existing = self.sessions.running(request.run_id, owner)
        if existing is not None and existing.open_digest == digest:
            return Opened(self.sessions.find(existing.id, owner).id, existing.cached)
        self._check_open(request)
        if self.draining():
            raise _stopping()
        waits_already = (owner, request.run_id) in self.sessions.queue
        if not waits_already and (wait_s := self._run_limiter.wait_s(owner or peer, 0)):
            advice = "wait, or ask the provider to raise --max_runs_s_per_key"
            raise Refused(
                ErrorCode.BUSY, "this key or connection has begun more runs a second than allowed", advice, wait_s
            )
        if existing is not None:
            self.end(existing, EndReason.REPLACED)
        self.sessions.enqueue(request, digest, peer, owner)
        self.admit()
        return None

    def _check_open(self, request: Open) -> None:
        if request.fingerprint != self._welcome.fingerprint:
            message = "the device's half and the cloud's are not from the same split"
            advice = "copy edge/ and cloud/ from one run of split_checkpoint.py"
            raise Refused(ErrorCode.WRONG_CHECKPOINT, message, advice)
        wire.check_settings(request)
        if request.prompt_tokens + len(request.resumed_ids) > self._welcome.max_seq_len:
            message = (
                f"{request.prompt_tokens} prompt tokens and {len(request.resumed_ids)} resumed tokens do not fit into "
                f"the context of {self._welcome.max_seq_len}"
            )
            advice = "shorten the prompt, or start the cloud with a larger --max_seq_len"
            raise Refused(ErrorCode.OUT_OF_RANGE, message, advice)
        wire.check_ids(request.resumed_ids, self._n_words, "resumed_ids")
        wire.check_ids(request.stop_ids, self._n_words, "stop_ids")

    def admit(self) -> None:
        """Give free slots to the first requests in the slot queue, and answer ``busy`` to others that waited long.

        While the cloud drains, refuse all requests in the queue.
        """
        if self.draining():
            for waiting in self.sessions.queue.values():
                if waiting.peer is not None:
                    self._send(waiting.peer, refused(_stopping().error, self._metrics, self._event_log))
            self.sessions.queue.clear()
        for waiting, session in self.sessions.admit():
            assert waiting.peer is not None
            session.listed = self._listed(session.request.prompt_id)
            self._event_log.info("session_opened", session=session.number, prompt_tokens=session.request.prompt_tokens)
            self._metrics.opened.inc()
            prefix = self.prefixes.get(waiting.request.prefix)
            if prefix is not None and prefix.length < waiting.request.prompt_tokens:
                session.begin_with(prefix.length)
                self._submit_to_model(FillSlot(session.slot, prefix.number))  # before any step of the session's
            self._send(waiting.peer, wire.encode(Opened(session.id, session.cached)))
        for peer, refusal in self.sessions.still_waiting():
            self._send(peer, wire.encode(refusal.error))

    def close(self, request: Close, owner: str) -> Closed:
        """End a session at its owner's request. If it is closed already, only confirm that."""
        if not self.sessions.was_closed(request.session, owner):
            self.end(self.sessions.find(request.session, owner), EndReason.CLOSED)
        return Closed()

    def end(self, session: Session, why: EndReason) -> None:
        """Close a session. Its slot becomes free when the worker has finished its current step and cleared the slot."""
        seconds, tokens = round(time.time() - session.opened_at, 3), len(session.outputs)
        self._event_log.info("session_ended", session=session.number, why=why, seconds=seconds, tokens=tokens)
        self._metrics.ended[why].inc()
        self.sessions.close(session)
        session.closing = True
        self._submit_to_model(ClearSlot(session.slot, session.high_water))

    def end_expired(self) -> None:
        """End idle sessions, and one session over its owner's share while another owner waits."""
        for session in self.sessions.idle():
            self.end(session, EndReason.IDLE)
        for session in self.sessions.beyond_their_share():
            self.end(session, EndReason.SHARE)

    def end_unlisted(self, is_listed: Callable[[str], bool]) -> None:
        """End the sessions of keys that were removed from the allow list, and drop their requests from the queue.

        This does not wait for another request of those keys.
        """
        for session in self.sessions:
            if not is_listed(session.owner):
                self.end(session, EndReason.KEY_REMOVED)
        self.sessions.leave_queue(is_listed)


def refused(error: Error, metrics: Metrics, event_log: EventLog) -> bytes:
    """Log and count a refusal, and return its encoded bytes."""
    event_log.info("refused", code=error.code)
    metrics.refused[error.code].inc()
    return wire.encode(error)


def _stopping() -> Refused:
    return Refused(ErrorCode.BUSY, "the cloud is stopping", "try again; the run continues after the restart", 1.0)
