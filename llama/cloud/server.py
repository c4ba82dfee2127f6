"""The cloud's socket loop: questions every request, keeps one computing thread busy, answers.

Three threads. The *door* owns the socket and the sessions and never computes, so a handshake is answered at once
however long a prompt is being worked on. The *worker* (the main thread) owns the model; it takes one job at a time. The
*clerk* does what may wait for a disk: finished runs, sheets, deliveries.

Nothing a peer sends ends the loop: whatever is wrong becomes a typed Error (``llama.wire``), and an envelope that is
not even a request is dropped.

Does not know: who the person is, what a prompt says. Not covered: several sessions in one forward pass.
"""

from __future__ import annotations

import contextlib
import errno
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
import zmq

from llama import wire
from llama.cloud.admission import Admission, CloudKeys, check_role
from llama.cloud.clerk import Clerk, Errand, FinishedRun, tell
from llama.cloud.ranks import Ranks
from llama.cloud.sessions import Session, Sessions, digest_of, unknown_session
from llama.device import is_out_of_memory
from llama.errors import BindError
from llama.sampling import sample
from llama.stages import StageClock
from llama.tokenizer import Tokenizer
from llama.wire import (
    Close,
    Closed,
    ErrorCode,
    Finish,
    Hello,
    Open,
    Opened,
    Refused,
    Reply,
    Request,
    Stages,
    Step,
    Tokens,
    Welcome,
)  # fmt: skip

POLL_S = 0.2  # how soon a signal is noticed
SIGN_OF_LIFE_S = 20.0
PEER_QUEUE = 4  # messages held per peer and direction; a REQ peer has one
MAX_ERRANDS = 256  # that wait for the clerk


@dataclass(frozen=True)
class _StepJob:
    session: Session
    step: Step
    rows: torch.Tensor
    arrived: float  # monotonic seconds


@dataclass(frozen=True)
class _ClearJob:
    slot: int
    end: int


@dataclass(frozen=True)
class _FinishJob:
    session: Session
    run: FinishedRun


@dataclass(frozen=True)
class _ErrandJob:
    peer: bytes
    errand: Errand


@dataclass(frozen=True)
class _Sampled:
    ids: list[int]
    stages: Stages | None


_Job = _StepJob | _ClearJob
_ClerkJob = _FinishJob | _ErrandJob
_Result = _Sampled | Refused | Reply | None


class Server:
    """Serves one model to many devices.

    Args:
        tokenizer: for the text of finished replies; only its ids are sampled or accepted, though some checkpoints
            have logits for more.
        welcome: what devices are told; its limits are enforced.
        slots: rows of the cache, so sessions at a time.
        idle_timeout_s: an unused session is closed after this.
        clerk: what becomes of finished runs; by default they are turned into text, and that is all.
        keys: the cloud's, and who may speak to it; without them anybody may, and can be listened to.
    """

    def __init__(
        self, tokenizer: Tokenizer, welcome: Welcome, *, slots: int, idle_timeout_s: float = 120.0,
        clerk: Clerk | None = None, keys: CloudKeys | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.welcome, self.clerk = tokenizer, welcome, clerk or Clerk(tokenizer)
        self.dtype = wire.DTYPES[welcome.dtype]
        self._stopping = False
        self.sessions = Sessions(
            slots, idle_timeout_s, time.monotonic, per_owner=None if keys is None else keys.max_sessions
        )
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        # Finished runs first: somebody waits for each of them. None: there will be no more.
        self._clerk_jobs: queue.PriorityQueue[tuple[int, int, _ClerkJob | None]] = queue.PriorityQueue()
        self._clerk_jobs_put = 0
        self._running_errands = set[bytes]()  # the peers that have one with the clerk
        self._results: deque[tuple[_Job | _ClerkJob, _Result]] = deque()
        self._failure: Exception | None = None
        self._context = zmq.Context()
        self._door = self._context.socket(zmq.ROUTER)
        self._admission = None if keys is None else Admission(keys, self._context)
        self._bell = self._context.socket(zmq.PULL)  # rung when a result lies ready
        self._bell.bind("inproc://bell")
        self._worker_rope, self._clerk_rope = self._bell_rope(), self._bell_rope()

    def bind(self, address: str) -> str:
        """Listen on a ZeroMQ address, and give the actual one (``tcp://…:*`` lets the system pick the port).

        Raises:
            BindError: in use, malformed, or not an address of this machine.
        """
        largest_rows = self.welcome.max_rows * self.welcome.dim * self.dtype.itemsize
        self._door.setsockopt(zmq.MAXMSGSIZE, max(wire.MAX_HEADER_BYTES, largest_rows))
        self._door.setsockopt(zmq.RCVHWM, PEER_QUEUE)
        self._door.setsockopt(zmq.SNDHWM, PEER_QUEUE)
        self._door.setsockopt(zmq.LINGER, 500)
        self._door.setsockopt(zmq.HEARTBEAT_IVL, 10_000)  # a peer that vanished without a word is dropped
        self._door.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
        if self._admission is not None:
            self._admission.guard(self._door)
        if address.startswith("tcp://["):
            self._door.setsockopt(zmq.IPV6, 1)
        try:
            if not wire.has_a_port(address):
                raise zmq.ZMQError(errno.EINVAL)
            self._door.bind(address)
        except zmq.ZMQError as err:
            reasons = {
                zmq.EADDRINUSE: "the port is in use; stop what listens there or choose another with --bind",
                errno.ENODEV: "no such network address on this machine; --bind tcp://0.0.0.0:PORT listens on all",
                zmq.EADDRNOTAVAIL: "no such network address on this machine; --bind tcp://0.0.0.0:PORT listens on all",
                errno.EACCES: "this user may not listen there; choose a port above 1023",
            }
            reason = reasons.get(err.errno or 0, "not an address to listen on; write --bind tcp://HOST:PORT")
            raise BindError(f"cannot listen on {address}: {reason}") from None
        return self._door.getsockopt_string(zmq.LAST_ENDPOINT)

    def serve(self, ranks: Ranks, stopping: Callable[[], bool]) -> None:
        """Answer requests with the model of ``ranks`` until ``stopping()``; then finish the job in hand and close.

        The caller's thread becomes the worker. Call it from the thread that loaded the model: OpenMP keeps a team of
        threads per calling thread, and with more of them than cores it puts them to sleep after every operation.

        Raises:
            RuntimeError: a step failed in a way that leaves the ranks out of step, or the door did.
        """
        door = threading.Thread(target=self._keep_the_door, name="door")
        clerk = threading.Thread(target=self._keep_the_books, name="clerk")
        door.start()
        clerk.start()
        try:
            self._work(ranks, stopping)
        finally:
            self._tell_the_clerk(None)
            clerk.join()
            self._stopping = True
            door.join()
            self._worker_rope.close()
            self._clerk_rope.close()
            self._context.term()
        if self._failure is not None:
            raise RuntimeError(f"serving failed: {self._failure}") from self._failure

    # ---- the door

    def _keep_the_door(self) -> None:
        poller = zmq.Poller()
        poller.register(self._door, zmq.POLLIN)
        poller.register(self._bell, zmq.POLLIN)
        if self._admission is not None:
            poller.register(self._admission.questions, zmq.POLLIN)
        try:
            while not self._stopping:
                events = dict(poller.poll(int(POLL_S * 1000)))
                if self._bell in events:
                    self._bell.recv()
                    self._answer_finished_jobs()
                if self._admission is not None:
                    self._admission.answer()
                    self._leave_who_is_not_listed(self._admission)
                if self._door in events:
                    self._receive()
                for session in self.sessions.idle():
                    self._end(session)
            self._answer_finished_jobs()
        except Exception as err:
            self._failure = err
        finally:
            self._door.close()
            self._bell.close()
            if self._admission is not None:
                self._admission.close()

    def _leave_who_is_not_listed(self, admission: Admission) -> None:
        """Close the sessions of keys that were taken off the list, whether they ask for more or not."""
        if admission.has_changed():
            for session in self.sessions:
                if not admission.is_listed(session.owner):
                    self._end(session)

    def _receive(self) -> None:
        frames = self._door.recv_multipart(copy=False)
        arrived = time.monotonic()
        if len(frames) < 3 or len(frames[1].bytes) != 0:
            return  # not the envelope of a REQ peer: nobody to answer
        peer, body = frames[0].bytes, [frame.bytes for frame in frames[2:]]
        try:
            owner = "" if self._admission is None else self._admission.owner_of(frames[2])
            identity = None if self._admission is None else self._admission.find(owner)
            if len(body) > 2:
                raise Refused(ErrorCode.BAD_REQUEST, f"{len(body)} frames; a request has one, a Step two")
            header = body[0]
            request = wire.decode_request(header)
            if (len(body) == 2) != isinstance(request, Step):
                raise Refused(ErrorCode.BAD_REQUEST, "a Step has a second frame, other requests have none")
            if identity is not None:
                check_role(identity, request)
            reply = self._handle(request, header, body[1] if len(body) == 2 else b"", peer, arrived, owner)
        except Refused as refusal:
            reply = wire.encode(refusal.error)
        except Exception as err:  # ours to answer for, and no reason to leave the others unserved
            reply = wire.encode(_failed(err).error)
        if reply is not None:
            self._send(peer, reply)

    def _handle(
        self, request: Request, header: bytes, rows: bytes, peer: bytes, arrived: float, owner: str
    ) -> bytes | None:
        """The reply, or None when it will follow."""
        if isinstance(request, Hello):
            return wire.encode(self._welcome(request))
        if isinstance(request, Open):
            return wire.encode(self._open(request, digest_of(header), owner))
        if isinstance(request, Close):
            return wire.encode(self._close(request, owner))
        if isinstance(request, Errand):
            if len(self._running_errands) >= MAX_ERRANDS or peer in self._running_errands:
                raise Refused(ErrorCode.BUSY, "too many requests at once", "ask again", 1.0)
            self._running_errands.add(peer)
            self._tell_the_clerk(_ErrandJob(peer, request))
            return None
        session, digest = self.sessions.find(request.session, owner), digest_of(header, rows)
        if session.is_repeat(request.seq, digest):
            session.waiter = peer
            return session.reply
        if isinstance(request, Finish):
            ids, opening = session.reply_ids(request.end), session.opening
            session.accept(request.seq, digest, peer)
            self._tell_the_clerk(_FinishJob(session, FinishedRun(
                opening.run_id, opening.prompt_id, session.opened_at, opening.prompt_tokens, ids, session.compute_us
            )))  # fmt: skip
            return None
        session.check_step(request, self.welcome.max_seq_len, self.welcome.max_rows)
        tensor = wire.rows_from_frame(request, rows, dtype=self.dtype, dim=self.welcome.dim)
        session.accept(request.seq, digest, peer)
        session.high_water = max(session.high_water, request.position + request.rows)
        self._jobs.put(_StepJob(session, request, tensor, arrived))
        return None

    def _welcome(self, request: Hello) -> Welcome:
        if request.version != wire.VERSION:
            raise Refused(ErrorCode.UNSUPPORTED_VERSION, f"the device speaks protocol {request.version}, the cloud "
                          f"{wire.VERSION}", "install the same release on both")  # fmt: skip
        return self.welcome

    def _open(self, request: Open, digest: bytes, owner: str) -> Opened:
        existing = self.sessions.running(request.run_id, owner)
        if existing is not None and existing.opening_digest == digest:
            return Opened(self.sessions.find(existing.id, owner).id)
        if request.fingerprint != self.welcome.fingerprint:
            raise Refused(ErrorCode.WRONG_CHECKPOINT, "the device's half and the cloud's are not from the same split",
                          "copy edge/ and cloud/ from one run of split_checkpoint.py")  # fmt: skip
        wire.check_settings(request)
        wire.check_ids(request.resumed_ids, self.tokenizer.n_words, "resumed_ids")
        wire.check_ids(request.stop_ids, self.tokenizer.n_words, "stop_ids")
        if request.prompt_tokens + len(request.resumed_ids) > self.welcome.max_seq_len:
            raise Refused(ErrorCode.OUT_OF_RANGE, f"{request.prompt_tokens} prompt tokens and "
                          f"{len(request.resumed_ids)} resumed ones, but the context is {self.welcome.max_seq_len}",
                          "shorten the prompt or start the cloud with a larger --max_seq_len")  # fmt: skip
        if existing is not None:
            self._end(existing)
        return Opened(self.sessions.open(request, digest, owner).id)

    def _close(self, request: Close, owner: str) -> Closed:
        if not self.sessions.was_closed(request.session, owner):
            self._end(self.sessions.find(request.session, owner))
        return Closed()

    def _end(self, session: Session) -> None:
        """Close a session; its row is cleared after whatever still runs in it, and only then free."""
        self.sessions.close(session)
        session.closing = True
        self._jobs.put(_ClearJob(session.slot, session.high_water))

    def _answer_finished_jobs(self) -> None:
        while self._results:
            job, result = self._results.popleft()
            if isinstance(job, _ClearJob):
                self.sessions.release(job.slot)
                continue
            if isinstance(job, _StepJob):
                reply = self._stepped(job, result)
            else:
                assert not isinstance(result, _Sampled) and result is not None
                reply = result.error if isinstance(result, Refused) else result
            if isinstance(job, _ErrandJob):
                self._running_errands.discard(job.peer)
                self._send(job.peer, wire.encode(reply))
                continue
            session = job.session
            session.last_used = time.monotonic()
            if session.closing:  # by another request while this one was worked on
                reply = unknown_session().error
            session.reply = wire.encode(reply)
            self._send(session.waiter, session.reply)

    def _stepped(self, job: _StepJob, result: _Result) -> Reply:
        elapsed_us = round((time.monotonic() - job.arrived) * 1e6)
        job.session.compute_us += elapsed_us
        if isinstance(result, _Sampled):
            job.session.stepped(job.step, result.ids)
            return Tokens(tuple(result.ids), elapsed_us, result.stages)
        assert isinstance(result, Refused)
        job.session.filled = min(job.session.filled, job.step.position)  # what was written there does not count
        return result.error

    def _send(self, peer: bytes, reply: bytes) -> None:
        try:
            self._door.send_multipart([peer, b"", reply], flags=zmq.DONTWAIT)
        except zmq.ZMQError:
            pass  # the peer has left or does not read; it will ask again if it cares

    # ---- the clerk

    def _keep_the_books(self) -> None:
        while (job := self._clerk_jobs.get()[-1]) is not None:
            result: _Result
            try:
                if isinstance(job, _FinishJob) and job.session.closing:
                    raise unknown_session()  # the device has left it: it is not finished
                result = self.clerk.finish(job.run) if isinstance(job, _FinishJob) else self.clerk.do(job.errand)
            except Refused as refusal:
                result = refusal
            except Exception as err:  # as at the door
                result = _failed(err)
            self._results.append((job, result))
            self._ring(self._clerk_rope)

    def _tell_the_clerk(self, job: _ClerkJob | None) -> None:
        self._clerk_jobs_put += 1
        self._clerk_jobs.put((0 if isinstance(job, _FinishJob) else 2 if job is None else 1, self._clerk_jobs_put, job))

    def _bell_rope(self) -> zmq.Socket[bytes]:
        rope: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
        rope.setsockopt(zmq.LINGER, 0)
        rope.connect("inproc://bell")
        return rope

    @staticmethod
    def _ring(rope: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):  # a full bell rings anyway; waiting would hang if the door is gone
            rope.send(b"", zmq.DONTWAIT)

    # ---- the worker

    def _work(self, ranks: Ranks, stopping: Callable[[], bool]) -> None:
        last_told = time.monotonic()
        while not stopping() and self._failure is None:
            try:
                job = self._jobs.get(timeout=POLL_S)
            except queue.Empty:
                if time.monotonic() - last_told > SIGN_OF_LIFE_S:
                    ranks.sign_of_life()
                    last_told = time.monotonic()
                continue
            self._results.append((job, self._run(ranks, job)))
            self._ring(self._worker_rope)
            last_told = time.monotonic()
        ranks.shut_down()

    @torch.inference_mode()
    def _run(self, ranks: Ranks, job: _Job) -> _Result:
        if isinstance(job, _ClearJob):
            ranks.clear(job.slot, job.end)
            return None
        # One NaN or infinity anywhere makes a sum one.
        if not math.isfinite(job.rows.sum(dtype=torch.float32)):
            return Refused(ErrorCode.NOT_FINITE, "the rows hold NaN or infinity", "the device's half is damaged")
        session, step = job.session, job.step
        begun = time.monotonic()
        clock = StageClock(ranks.device) if step.times else None
        try:
            logits = ranks.step(session.slot, step.position, job.rows, step.want, clock)
        except RuntimeError as err:
            if not is_out_of_memory(err) or not ranks.alone:
                raise  # the other ranks are inside a step that this one has left
            return Refused(ErrorCode.INTERNAL, "the cloud ran out of memory in this step", "send smaller chunks")
        if step.want and not math.isfinite(logits.sum()):
            return Refused(ErrorCode.NOT_FINITE, "the logits hold NaN or infinity",
                           "float16 overflows with some checkpoints: use bfloat16 or float32")  # fmt: skip
        if clock is not None:
            clock.stop()
        first = session.first_output(step)
        logits = logits[:, : self.tokenizer.n_words]
        ids = [sample(row, session.sampling, first + i) for i, row in enumerate(logits)]
        return _Sampled(ids, None if clock is None else _stages(clock, round((begun - job.arrived) * 1e6)))


def _stages(clock: StageClock, queue_us: int) -> Stages:
    clock.stop()
    *layers, head, sampling = clock.stages_us()
    return Stages(queue_us, tuple(layers), head, sampling)


def _failed(err: Exception) -> Refused:
    tell(f"{type(err).__name__} while answering a request")
    return Refused(
        ErrorCode.INTERNAL, "the cloud failed on this request", "try again; if it stays so, tell the provider"
    )
