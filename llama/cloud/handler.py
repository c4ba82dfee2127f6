"""The protocol's rules: the handler answers requests, and hands on those that take longer.

    a message ─► decoded ─► checked ─┬─► answered at once           Hello, Close, Status, a repeat
                                     ├─► a slot, now or later       Open
                                     ├─► a job for the model        Step
                                     └─► a job for the background   Finish, control requests

The handler answers an invalid request with a typed Error (``llama.wire``). Only the I/O thread uses it. It has no
socket, so that tests need none.

Knows: requests, sessions, the protocol's rules, the clock. Does not know: sockets, tensors' content, text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llama import wire
from llama.cloud.auth import CloudKeys, check_keyless, check_role, listed_identity
from llama.cloud.control import ControlRequest
from llama.cloud.event_log import EventLog
from llama.cloud.jobs import (
    BackgroundDone,
    BackgroundJob,
    ControlJob,
    Done,
    FinishJob,
    ModelJob,
    Sampled,
    SlotCleared,
    StepDone,
    StepJob,
)
from llama.cloud.lifecycle import SessionLifecycle, refused
from llama.cloud.metrics import Metrics, total
from llama.cloud.rate_limit import RateLimiter
from llama.cloud.router import Sender
from llama.cloud.run_finisher import FinishedRun
from llama.cloud.sessions import Session, digest_of, unknown_session
from llama.dtypes import DTYPES
from llama.tensor_frames import hidden_from_frame
from llama.wire import (
    Close,
    Error,
    ErrorCode,
    Finish,
    Forget,
    Hello,
    Open,
    Refused,
    Reply,
    Request,
    RequestDecoder,
    Status,
    StatusReport,
    Step,
    Tokens,
    Welcome,
)

LARGE_REPLY = 1 << 20  # bytes; replies to a device are almost always shorter


class Peers(Protocol):
    """The methods of ``llama.cloud.router`` that the handler calls to send replies later."""

    def send(self, peer: bytes, reply: bytes) -> None:
        """Send a reply to a peer."""

    def disconnect(self, descriptor: int) -> None:
        """Close a peer's connection."""


class Executor(Protocol):
    """The methods of ``llama.cloud.background`` that the handler calls."""

    def submit(self, job: BackgroundJob) -> None:
        """Queue a job, or raise Refused."""

    def note_reply(self, job: BackgroundJob) -> None:
        """Note that a job's reply is on its way."""


class Handler:
    """The protocol's rules for one cloud.

    Args:
        welcome: the reply to a device's Hello. The handler enforces its limits.
        decoder: decodes requests to this cloud.
        lifecycle: opens and ends sessions.
        peers: sends the replies that are not given at once.
        submit_to_model: queues a job for the model.
        background: queues a job that may wait for a disk.
        limiter: rate limiter that is charged for replies and work.
        keys: the cloud's key pair and the allow list; None without keys.
        metrics, event_log: record what happens.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        welcome: Welcome,
        decoder: RequestDecoder,
        lifecycle: SessionLifecycle,
        *,
        peers: Peers,
        submit_to_model: Callable[[ModelJob], None],
        background: Executor,
        limiter: RateLimiter,
        keys: CloudKeys | None,
        metrics: Metrics,
        event_log: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self.welcome, self.lifecycle, self.sessions = welcome, lifecycle, lifecycle.sessions
        self._decoder = decoder
        self._dtype = DTYPES[welcome.dtype]
        self._peers, self._submit_to_model, self._background = peers, submit_to_model, background
        self._limiter, self._keys = limiter, keys
        self._metrics, self._event_log, self._clock = metrics, event_log, clock

    # ---- a message

    def handle(self, sender: Sender, frames: list[bytes]) -> bytes | None:
        """Handle a message's frames. Return the reply, or None if it follows later."""
        try:
            return self._answer(sender, frames)
        except Refused as refusal:
            return self._encoded(refusal.error)
        except Exception as err:  # a fault of the cloud; it must not end the service for other devices
            return self._encoded(failed(err, self._event_log).error)

    def over_rate(self, wait_s: float) -> bytes:
        """Return the refusal of a message that came too early."""
        one = "connection" if self._keys is None else "key"
        message = f"this {one} is over its limit of bytes, requests or work a second"
        advice = "send less, or ask the provider to raise --max_mb_s_per_key or --max_requests_s_per_key"
        return self._encoded(Error(ErrorCode.BUSY, message, advice, wait_s))

    def _answer(self, sender: Sender, frames: list[bytes]) -> bytes | None:
        identity = None if self._keys is None else listed_identity(self._keys, sender.owner)
        if len(frames) > 2:
            raise Refused(ErrorCode.BAD_REQUEST, f"{len(frames)} frames; a Step has two, other requests have one")
        request = self._decoder.decode(frames[0])
        if (len(frames) == 2) != isinstance(request, Step):
            raise Refused(ErrorCode.BAD_REQUEST, "a Step must have two frames, other requests must have one")
        if identity is None:
            check_keyless(request, sender.address)
        else:
            check_role(identity, request)
        if isinstance(request, Step | Finish):
            return self._of_a_session(request, sender, frames)
        if isinstance(request, ControlRequest):
            self._check_is_over(request, sender.owner)
            self._background.submit(ControlJob(sender.peer, sender.owner, request))
            return None
        reply = self._at_once(request, sender, frames[0])
        return None if reply is None else wire.encode(reply)

    def _at_once(self, request: Request, sender: Sender, header: bytes) -> Reply | None:
        match request:
            case Hello():
                return self._welcome(request)
            case Open():
                return self.lifecycle.open(request, digest_of(header), sender.peer, sender.owner)
            case Close():
                return self.lifecycle.close(request, sender.owner)
            case Status():
                return self._status()
        raise AssertionError(type(request))

    def _of_a_session(self, request: Step | Finish, sender: Sender, frames: list[bytes]) -> bytes | None:
        header, frame = frames[0], frames[1] if len(frames) == 2 else b""
        session, digest = self.sessions.find(request.session, sender.owner), digest_of(header, frame)
        repeats = session.is_repeat(request.seq, digest)
        if repeats and sender.peer != session.waiter and len(session.reply or b"") > LARGE_REPLY:
            # The reply may still lie unread in the connection before. A peer with many connections could make the
            # cloud hold one copy for each, so the cloud closes that connection.
            self._peers.disconnect(session.descriptor)
        session.descriptor = sender.descriptor
        if repeats:
            session.waiter = sender.peer
            return session.reply
        if isinstance(request, Finish):
            run = _finished_run(session, request.end)
            session.accept(request.seq, digest, sender.peer)
            self._background.submit(FinishJob(session, run))
        else:
            job = self._step_job(session, request, frame, sender.arrived)
            session.accept(request.seq, digest, sender.peer)
            session.high_water = max(session.high_water, job.end)
            if job.is_decoding and session.answered is not None:
                self._metrics.away.observe(sender.arrived - session.answered)
            self._submit_to_model(job)
        return None

    def _step_job(self, session: Session, step: Step, frame: bytes, arrived: float) -> StepJob:
        session.check_step(step, self.welcome.max_seq_len, self.welcome.max_rows)
        hidden = hidden_from_frame(step, frame, dtype=self._dtype, dim=self.welcome.dim)
        return StepJob(session, step, hidden, arrived, session.repeated(step))

    def _check_is_over(self, request: ControlRequest, owner: str) -> None:
        """Check that a run to be forgotten is not under way; otherwise it would be recorded afterwards."""
        if not isinstance(request, Forget):
            return
        if self.sessions.running(request.run_id, owner) or (owner, request.run_id) in self.sessions.queue:
            advice = "stop it, or wait until it has ended, and ask again"
            raise Refused(ErrorCode.RUN_UNDER_WAY, "this run is under way", advice)

    def _welcome(self, request: Hello) -> Welcome:
        if request.version != wire.VERSION:
            message = f"the device speaks protocol {request.version}, the cloud speaks protocol {wire.VERSION}"
            raise Refused(ErrorCode.UNSUPPORTED_VERSION, message, "install the same release on both")
        return self.welcome

    def _status(self) -> StatusReport:
        sessions, metrics = self.sessions, self._metrics
        return StatusReport(
            up_s=int(self._clock() - metrics.started),
            sessions=len(sessions),
            places=sessions.slots,
            waiting=len(sessions.queue),
            cached=sessions.filled(),
            cache=sessions.slots * self.welcome.max_seq_len,
            tokens=total([metrics.tokens]),
            refusals=total(metrics.refused.values()),
            draining=self.lifecycle.draining(),
        )

    # ---- results

    def reply_to(self, done: Done) -> None:
        """Send the reply to a finished job."""
        match done:
            case SlotCleared():
                self.sessions.release(done.slot)
            case StepDone():
                self._reply_to_session(done.job.session, self._stepped(done.job, done.result))
            case BackgroundDone(job=FinishJob() as job):
                self._background.note_reply(job)
                self._reply_to_session(job.session, done.reply, done.seconds)
            case BackgroundDone(job=ControlJob() as job):
                self._background.note_reply(job)
                self._deliver(job.peer, job.owner, self._encoded(done.reply), done.seconds)

    def _stepped(self, job: StepJob, result: Sampled | Refused) -> Reply:
        elapsed_us = round((self._clock() - job.arrived) * 1e6)
        session, step = job.session, job.step
        session.compute_us += elapsed_us
        if isinstance(result, Refused):
            session.filled = min(session.filled, step.position)  # positions that the failed step wrote do not count
            return result.error
        session.record_step(step, result.ids)
        self._metrics.tokens.inc(len(result.ids))
        prompt = session.request.prompt_tokens
        self._metrics.prompt_positions.inc(min(job.end, prompt) - min(step.position, prompt))
        return Tokens(tuple(result.ids), elapsed_us, step.seq, result.stages)

    def _reply_to_session(self, session: Session, reply: Reply, seconds: float = 0.0) -> None:
        session.last_used = session.answered = self._clock()
        if session.closing:  # another request closed it while this one was computed
            reply = unknown_session().error
        session.reply = self._encoded(reply)
        self._deliver(session.waiter, session.owner, session.reply, seconds)

    def _deliver(self, peer: bytes, owner: str, reply: bytes, seconds: float) -> None:
        self._peers.send(peer, reply)
        self._limiter.charge(owner or peer, size=len(reply), seconds=seconds)

    def _encoded(self, reply: Reply) -> bytes:
        """Encode a new reply. Log and count it if it is a refusal."""
        return refused(reply, self._metrics, self._event_log) if isinstance(reply, Error) else wire.encode(reply)


def failed(err: Exception, event_log: EventLog) -> Refused:
    """Log a fault of the cloud, and return the refusal that the peer gets for it."""
    event_log.error("request_failed", error=type(err).__name__)
    message, advice = "the cloud failed on this request", "try again; if it fails again, tell the provider"
    return Refused(ErrorCode.INTERNAL, message, advice)


def _finished_run(session: Session, end: int) -> FinishedRun:
    request = session.request
    return FinishedRun(
        run_id=request.run_id,
        prompt_id=request.prompt_id,
        opened_at=session.opened_at,
        prompt_tokens=request.prompt_tokens,
        ids=session.reply_ids(end),
        compute_us=session.compute_us,
        owner=session.owner,
        listed=session.listed,
    )
