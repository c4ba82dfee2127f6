"""How a session begins and ends: the queue for a slot, admission, closing, and who has to go.

One thread uses it: the I/O thread.

Knows: sessions, requests to open and close, the clock. Does not know: sockets, tensors, what a run says.
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
    """Opens and ends the sessions of one cloud.

    Args:
        welcome: what devices are told; its limits are enforced.
        n_words: ids of the tokenizer; others are refused.
        sessions: who has a slot, and who waits for one.
        listed: finds the cloud's own sheet of a prompt id.
        send: sends a reply to a peer that waits.
        submit_to_model: takes a job for the model.
        max_runs_s: runs that one key, or without keys one connection, may begin in a second.
        metrics, event_log: told who comes and goes.
        clock: monotonic seconds.

    Attributes:
        prefixes: the prefix cache, by the ids that devices name.
        draining: whether no session is opened any more.
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
        """Give the session that there is, or None where the request now waits for a slot."""
        existing = self.sessions.running(request.run_id, owner)
        if existing is not None and existing.open_digest == digest:
            return Opened(self.sessions.find(existing.id, owner).id, existing.cached)
        self._check_open(request)
        if self.draining():
            raise _stopping()
        waits_already = (owner, request.run_id) in self.sessions.queue
        if not waits_already and (wait_s := self._run_limiter.wait_s(owner or peer, 0)):
            advice = "wait, or have the provider raise --max_runs_s_per_key"
            raise Refused(ErrorCode.BUSY, "more runs a second than one key may begin", advice, wait_s)
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
                f"{request.prompt_tokens} prompt tokens and {len(request.resumed_ids)} resumed ones, but the context "
                f"is {self._welcome.max_seq_len}"
            )
            advice = "shorten the prompt or start the cloud with a larger --max_seq_len"
            raise Refused(ErrorCode.OUT_OF_RANGE, message, advice)
        wire.check_ids(request.resumed_ids, self._n_words, "resumed_ids")
        wire.check_ids(request.stop_ids, self._n_words, "stop_ids")

    def admit(self) -> None:
        """Give free slots to the first in the queue, and tell the others that they still wait."""
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
        """End the session that its owner is done with; once more, it is closed already."""
        if not self.sessions.was_closed(request.session, owner):
            self.end(self.sessions.find(request.session, owner), EndReason.CLOSED)
        return Closed()

    def end(self, session: Session, why: EndReason) -> None:
        """Close a session; its slot is cleared after whatever still runs in it, and only then free."""
        seconds, tokens = round(time.time() - session.opened_at, 3), len(session.outputs)
        self._event_log.info("session_ended", session=session.number, why=why, seconds=seconds, tokens=tokens)
        self._metrics.ended[why].inc()
        self.sessions.close(session)
        session.closing = True
        self._submit_to_model(ClearSlot(session.slot, session.high_water))

    def end_expired(self) -> None:
        """End the sessions that are idle, or that others have a right to."""
        for session in self.sessions.idle():
            self.end(session, EndReason.IDLE)
        for session in self.sessions.beyond_their_share():
            self.end(session, EndReason.SHARE)

    def end_unlisted(self, is_listed: Callable[[str], bool]) -> None:
        """End the sessions of keys that were taken off the list, and drop those that wait, whether they ask or not."""
        for session in self.sessions:
            if not is_listed(session.owner):
                self.end(session, EndReason.KEY_REMOVED)
        self.sessions.leave_queue(is_listed)


def refused(error: Error, metrics: Metrics, event_log: EventLog) -> bytes:
    """Log and count a refusal; give its bytes."""
    event_log.info("refused", code=error.code)
    metrics.refused[error.code].inc()
    return wire.encode(error)


def _stopping() -> Refused:
    return Refused(ErrorCode.BUSY, "the cloud is stopping", "another start of it will take the run on", 1.0)
