"""The cloud's socket loop: questions every request, keeps one computing thread busy, answers.

Three threads. The *door* owns the socket and the sessions and never computes, so a handshake is answered at once
however long a prompt is being worked on. The *worker* (the main thread) owns the model; what decodes shares its passes
(``llama.cloud.scheduler``). The *clerk* does what may wait for a disk: finished runs, sheets, deliveries.

Nothing a peer sends ends the loop: whatever is wrong becomes a typed Error (``llama.wire``), and an envelope that is
not even a request is dropped.

Does not know: who the person is, what a prompt says.
"""

from __future__ import annotations

import contextlib
import errno
import math
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import torch
import zmq
from zmq.utils.monitor import parse_monitor_message

from llama import wire
from llama.addresses import Endpoint, NotAnAddress, UnknownHost, to_listen
from llama.cloud.admission import Admission, CloudKeys, check_keyless, check_role, descriptor_of, monitor_of, new_door
from llama.cloud.clerk import Clerk, Errand, FinishedRun
from llama.cloud.connections import Connections
from llama.cloud.events import Events
from llama.cloud.limits import Budgets
from llama.cloud.metrics import Metrics
from llama.cloud.prefixes import Prefix
from llama.cloud.ranks import Ranks
from llama.cloud.scheduler import Pass, Scheduler
from llama.cloud.sessions import Ending, Session, Sessions, digest_of, unknown_session
from llama.device import is_out_of_memory
from llama.dtypes import DTYPES
from llama.errors import BindError, SplitLlamaError
from llama.memory_ceiling import MemoryCeiling
from llama.sampler import sample
from llama.stages import StageClock
from llama.tensor_frames import hidden_from_frame
from llama.tokenizer import Tokenizer
from llama.wire import (
    Close,
    Closed,
    Error,
    ErrorCode,
    Finish,
    Hello,
    Open,
    Opened,
    Refused,
    Reply,
    Request,
    Stages,
    Status,
    StatusReport,
    Step,
    Tokens,
    Welcome,
)  # fmt: skip

POLL_S = 0.2  # how soon a signal is noticed
SIGN_OF_LIFE_S = 20.0
STUCK_S = 60.0  # a worker that is not heard of for so long is in a pass that will hardly end; likewise the door
PEER_QUEUE = 4  # messages held per peer and direction; a REQ peer has one
MAX_ERRANDS, MAX_ERRANDS_EACH = 256, 16  # that wait for the clerk, and of one key
FINISHED_FIRST = 32  # finished runs that may come after an errand and before it
AT_ONCE = 8  # messages read before the door looks after anything else
MOST_FRAMES = 16  # of a message; a Step's has 4 with its envelope
EVENTS_AT_ONCE = 100  # of the monitor, likewise
SURPLUS_AT_ONCE = 1000  # frames beyond those, read away before the door looks after anything else
REST_S = 0.001  # after messages beyond a budget nothing is read for so long: the worker needs the interpreter, too
REFUSALS_S = 20.0  # messages a second of a connection beyond its budget; a device asks again after 0.1 s
LARGE_REPLY = 1 << 20  # bytes; an honest one is hardly ever so long
_NOT_HERE = (errno.ENODEV, zmq.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # said of an address that this machine has not
MOST_WAITING_CHARGED_S = 0.1  # of a request to the clerk: that a disk is slow is no peer's fault


@dataclass(frozen=True)
class _StepJob:
    session: Session
    step: Step
    hidden: torch.Tensor  # (rows, dim)
    arrived: float  # monotonic seconds
    repeated: float  # part of its rows that the session has computed before

    @property
    def slot(self) -> int:
        return self.session.slot

    @property
    def owner(self) -> str | bytes:
        return self.session.owner or self.session.id  # without keys each session is an owner of its own

    @property
    def rows(self) -> int:
        return self.step.rows

    @property
    def end(self) -> int:
        return self.step.position + self.step.rows

    @property
    def sampled(self) -> int:
        return self.step.want if self.session.sampling.temperature > 0 else 0

    @property
    def is_decoding(self) -> bool:
        return self.step.rows == self.step.want == 1

    def first_wanted(self, start: int = 0) -> int:
        """The first row, from ``start`` on, whose next id is wanted."""
        return max(start, self.step.rows - self.step.want)


@dataclass(frozen=True)
class _ClearJob:
    slot: int
    end: int


@dataclass(frozen=True)
class _FillJob:
    slot: int
    number: int


@dataclass(frozen=True)
class _FinishJob:
    session: Session
    run: FinishedRun


@dataclass(frozen=True)
class _ErrandJob:
    peer: bytes
    owner: str
    errand: Errand


@dataclass(frozen=True)
class _Sampled:
    """What came of a step, or of the part of it that was computed last."""

    ids: list[int]
    stages: Stages | None

    def then(self, later: _Sampled) -> _Sampled:
        """This part and the one after it."""
        return _Sampled([*self.ids, *later.ids], _added(self.stages, later.stages))


@dataclass(frozen=True)
class _Done:
    """A job, what came of it, and seconds that the clerk spent on it."""

    job: _StepJob | _ClearJob | _ClerkJob
    result: _Result
    seconds: float = 0.0


_Job = _StepJob | _ClearJob | _FillJob
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
        most_waiting: Opens that may wait in line for a slot.
        keys: the cloud's, and who may speak to it; without them anybody may, and can be listened to.
        max_bytes_s: that one key may send in a second; without keys, one connection.
        max_requests_s: likewise.
        max_runs_s: that one key, or without keys one connection, may begin in a second.
        thread_share: seconds a second that one key, or connection, may have of the thread that reads, and of the clerk.
        events: told who comes and goes, as numbers, and what is refused or goes wrong.
    """

    def __init__(
        self, tokenizer: Tokenizer, welcome: Welcome, *, slots: int, idle_timeout_s: float = 120.0,
        clerk: Clerk | None = None, most_waiting: int = 64, keys: CloudKeys | None = None,
        max_bytes_s: float = math.inf, max_requests_s: float = math.inf, max_runs_s: float = math.inf,
        thread_share: float = math.inf,
        events: Events | None = None,
    ) -> None:  # fmt: skip
        self.events, self.metrics = events or Events(), Metrics()
        self.tokenizer, self.welcome, self.clerk = tokenizer, welcome, clerk or Clerk(tokenizer, events=self.events)
        self.dtype = DTYPES[welcome.dtype]
        self._prefixes: Mapping[bytes, Prefix] = {}
        self._stopping = False
        self._stop_asked: Callable[[], bool] | None = None  # before it serves, None
        self._draining: Callable[[], bool] = lambda: False
        self._worker_seen = self._door_seen = 0.0  # monotonic seconds
        self.sessions = Sessions(
            slots, idle_timeout_s, time.monotonic, most_waiting, per_owner=None if keys is None else keys.max_sessions
        )
        self._largest_rows = welcome.max_rows * welcome.dim * self.dtype.itemsize
        self._decoder = wire.RequestDecoder(welcome.max_seq_len)
        largest = self._decoder.max_header_bytes + self._largest_rows
        self._budgets = Budgets(max_bytes_s, max_requests_s, largest, time.monotonic, share=thread_share)
        self._runs = Budgets(math.inf, max_runs_s, 0, time.monotonic)
        self._refusals = Budgets(math.inf, REFUSALS_S, 0, time.monotonic)
        self._ceiling: MemoryCeiling | None = None
        self._surplus = False  # what comes next belongs to a message that has more frames than any request
        self._rests_until = 0.0
        self._port = 0
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        # By whose turn it is, then in order. None: there will be no more.
        self._clerk_jobs: queue.PriorityQueue[tuple[float, int, _ClerkJob | None]] = queue.PriorityQueue()
        self._clerk_jobs_put = 0
        self._running_errands = dict[bytes, str]()  # the peers that have one with the clerk, and their keys
        self._connections = Connections(time.monotonic)
        self._results: deque[_Done] = deque()
        self._failure: Exception | None = None
        self._context = zmq.Context()
        self._door = new_door(self._context)
        self._admission = None if keys is None else Admission(keys, self._context)
        self._monitor = monitor_of(self._door, self._context)
        self._bell = self._context.socket(zmq.PULL)  # rung when a result lies ready
        self._bell.bind("inproc://bell")
        self._worker_rope, self._clerk_rope = self._bell_rope(), self._bell_rope()

    def bind(self, address: str, endpoints: Sequence[Endpoint] = ()) -> str:
        """Listen on a ZeroMQ address, and give the actual one (``tcp://…:*`` lets the system pick the port).

        Args:
            address: as it was given.
            endpoints: what it stands for; by default it is looked up. The first that this machine has is listened to.

        Raises:
            BindError: in use, malformed, or not an address of this machine.
        """
        self._door.setsockopt(zmq.MAXMSGSIZE, max(wire.MAX_HEADER_BYTES, self._largest_rows))
        self._door.setsockopt(zmq.RCVHWM, PEER_QUEUE)
        self._door.setsockopt(zmq.SNDHWM, PEER_QUEUE)
        self._door.setsockopt(zmq.LINGER, 500)
        self._door.setsockopt(zmq.HEARTBEAT_IVL, 10_000)  # a peer that vanished without a word is dropped
        self._door.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
        if self._admission is not None:
            self._admission.guard(self._door)
        try:
            self._bind_to_first(endpoints or to_listen(address))
        except (NotAnAddress, UnknownHost) as err:
            why = str(err) or "not an address to listen on; write --bind tcp://HOST:PORT"
            raise BindError(f"cannot listen on {address}: {why}") from None
        except zmq.ZMQError as err:
            not_here = "no such network address on this machine; --bind tcp://0.0.0.0:PORT listens on all of IPv4, " \
                       "tcp://[::]:PORT on all"  # fmt: skip
            reasons = {
                zmq.EADDRINUSE: "the port is in use; stop what listens there or choose another with --bind",
                **dict.fromkeys(_NOT_HERE, not_here),
                errno.EACCES: "this user may not listen there; choose a port above 1023",
            }
            reason = reasons.get(err.errno or 0, "not an address to listen on; write --bind tcp://HOST:PORT")
            raise BindError(f"cannot listen on {address}: {reason}") from None
        endpoint = self._door.getsockopt_string(zmq.LAST_ENDPOINT)
        self._port = int(endpoint.rpartition(":")[2]) if endpoint.startswith("tcp:") else 0
        return endpoint

    def _bind_to_first(self, endpoints: Sequence[Endpoint]) -> None:
        """Raises ZMQError."""
        for number, endpoint in enumerate(endpoints, start=1):
            self._door.setsockopt(zmq.IPV6, int(endpoint.ipv6))
            try:
                self._door.bind(endpoint.address)
                return
            except zmq.ZMQError as err:
                if err.errno not in _NOT_HERE or number == len(endpoints):
                    raise

    def serve(
        self, ranks: Ranks, stopping: Callable[[], bool], draining: Callable[[], bool] = lambda: False,
        drain_s: float = 20.0, prefixes: Mapping[bytes, Prefix] | None = None, ceiling: MemoryCeiling | None = None,
    ) -> None:  # fmt: skip
        """Answer requests with the model of ``ranks`` until ``stopping()``; then finish the job in hand and close.

        Sessions that name one of the ``prefixes``, which ``ranks`` keep, begin with it.

        From ``draining()`` on no session is opened; when those that there are have ended, or after ``drain_s``, it
        stops.

        The caller's thread becomes the worker. Call it from the thread that loaded the model: OpenMP keeps a team of
        threads per calling thread, and with more of them than cores it puts them to sleep after every operation.

        Raises:
            RuntimeError: a step failed in a way that leaves the ranks out of step, or the door did.
            MemoryCeilingReached: the process has more memory than ``ceiling`` allows.
        """
        self._draining, self._prefixes, self._ceiling = draining, prefixes or {}, ceiling
        self._stop_asked, self._worker_seen, self._door_seen = stopping, time.monotonic(), time.monotonic()
        self.metrics.watch(self.sessions, self.welcome.max_seq_len, ranks.cache.keys_values.nbytes)
        door = threading.Thread(target=self._keep_the_door, name="door")
        clerk = threading.Thread(target=self._keep_the_books, name="clerk")
        door.start()
        clerk.start()
        try:
            self._work(ranks, _Until(stopping, draining, drain_s, self.sessions, self.events))
        finally:
            self._tell_the_clerk(None)
            clerk.join()
            self._stopping = True
            door.join()
            self._worker_rope.close()
            self._clerk_rope.close()
            self._context.term()
            self.events.info("stopped", sessions_cut_off=len(self.sessions))
            self.events.catch_up(at_once=True)
        if isinstance(self._failure, SplitLlamaError):
            raise self._failure
        if self._failure is not None:
            raise RuntimeError(f"serving failed: {self._failure}") from self._failure

    def health(self) -> str:
        """``ok``; or ``starting``, ``draining``, ``stopping``; or ``stuck``: the worker or the door is not heard of."""
        if self._stop_asked is None:
            return "starting"
        if self._stopping or self._stop_asked():
            return "stopping"
        if self._draining():
            return "draining"
        return "stuck" if time.monotonic() - min(self._worker_seen, self._door_seen) > STUCK_S else "ok"

    # ---- the door

    def _keep_the_door(self) -> None:
        poller = zmq.Poller()
        poller.register(self._door, zmq.POLLIN)
        poller.register(self._bell, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        if self._admission is not None:
            poller.register(self._admission.questions, zmq.POLLIN)
        try:
            while not self._stopping:
                self._door_seen = time.monotonic()
                if self._ceiling is not None:
                    self._ceiling.check()
                rest_s = self._rests_until - time.monotonic()
                poller.modify(self._door, 0 if rest_s > 0 else zmq.POLLIN)
                events = dict(poller.poll(math.ceil(1000 * (rest_s if rest_s > 0 else POLL_S))))
                if self._bell in events:
                    self._bell.recv()
                    self._answer_finished_jobs()
                if self._monitor in events:
                    self._look_at_connections()
                if self._admission is not None:
                    if turned_away := self._admission.answer():
                        self.events.info("turned_away", number=turned_away)
                    self._leave_who_is_not_listed(self._admission)
                if self._door in events:
                    self._receive()
                for session in self.sessions.idle():
                    self._end(session, Ending.IDLE)
                for session in self.sessions.beyond_their_share():
                    self._end(session, Ending.SHARE)
                self._admit()
                for descriptor in self._connections.silent():
                    self._hang_up(descriptor)
                self.events.catch_up()
            self._answer_finished_jobs()
        except Exception as err:
            self._failure = err
        finally:
            self._door.disable_monitor()
            self._door.close()
            self._monitor.close()
            self._bell.close()
            if self._admission is not None:
                self._admission.close()

    def _leave_who_is_not_listed(self, admission: Admission) -> None:
        """Close the sessions of keys that were taken off the list, and those that wait, whether they ask or not."""
        changes = admission.changes()
        if changes is not None:
            for event, number in zip(("keys_listed", "keys_unlisted"), changes, strict=True):
                if number:
                    self.events.info(event, number=number, listed=len(admission.keys.allowed))
            for session in self.sessions:
                if not admission.is_listed(session.owner):
                    self._end(session, Ending.KEY_REMOVED)
            self.sessions.leave_line(admission.is_listed)

    def _look_at_connections(self) -> None:
        """What libzmq says of them; as much as is there, but not without end."""
        for _ in range(EVENTS_AT_ONCE):
            if not self._monitor.poll(0):
                return
            event = parse_monitor_message(self._monitor.recv_multipart())
            if event["event"] == zmq.Event.ACCEPTED:
                self._connections.accepted(int(event["value"]))
            else:
                self._connections.gone(int(event["value"]))

    def _receive(self) -> None:
        """Some messages, each answered or handed on."""
        for _ in range(AT_ONCE):
            for _ in range(SURPLUS_AT_ONCE if self._surplus else 0):
                self._surplus = self._surplus and self._door.recv(copy=False).more
            if self._surplus:
                return
            # Asking also makes libzmq see what peers have read of their answers; else it would drop the fifth in a row.
            if not int(self._door.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            frames = [self._door.recv(copy=False)]
            while frames[-1].more and len(frames) < MOST_FRAMES:
                frames.append(self._door.recv(copy=False))
            self._surplus = frames[-1].more
            # Not by the clock: while the worker has the interpreter, this thread waits.
            began = time.thread_time()
            peer, owner = frames[0].bytes, "" if self._admission is None else self._admission.owner_of(frames[-1])
            sent = self._question(frames, peer, owner)
            self._budgets.charge(owner or peer, size=sent, seconds=time.thread_time() - began)

    def _question(self, frames: list[zmq.Frame], peer: bytes, owner: str) -> int:
        """Answer a message, or hand it on; bytes of the answer, if there is one now."""
        arrived = time.monotonic()
        sizes = [len(frame) for frame in frames]
        wait_s = self._budgets.wait_s(owner or peer, sum(sizes))
        if wait_s:
            self._rests_until = arrived + REST_S
        descriptor = descriptor_of(frames[-1])
        may_stay = self._connections.heard(descriptor, owner)
        if self._surplus or not may_stay or (wait_s and self._refusals.wait_s(peer, 0)):
            self._hang_up(descriptor)
            return 0
        if len(sizes) < 3 or sizes[1] != 0:
            return 0  # not the envelope of a REQ peer: nobody to answer
        self.metrics.received += sum(sizes[2:])
        try:
            if wait_s:
                one = "connection" if self._admission is None else "key"
                raise Refused(ErrorCode.BUSY, f"more bytes, requests or work a second than one {one} may ask for",
                              "send less, or have the provider raise --max_mb_s_per_key or --max_requests_s_per_key",
                              wait_s)  # fmt: skip
            identity = None if self._admission is None else self._admission.find(owner)
            body = [frame.bytes for frame in frames[2:]]
            if len(body) > 2:
                raise Refused(ErrorCode.BAD_REQUEST, f"{len(body)} frames; a request has one, a Step two")
            header = body[0]
            request = self._decoder.decode(header)
            if (len(body) == 2) != isinstance(request, Step):
                raise Refused(ErrorCode.BAD_REQUEST, "a Step has a second frame, other requests have none")
            if identity is not None:
                check_role(identity, request)
            else:
                check_keyless(request, frames[2])
            rows = body[1] if len(body) == 2 else b""
            reply = self._handle(request, header, rows, peer, arrived, owner, descriptor)
        except Refused as refusal:
            reply = self._encoded(refusal.error)
        except Exception as err:  # ours to answer for, and no reason to leave the others unserved
            reply = self._encoded(self._failed(err).error)
        if reply is None:
            return 0
        self._send(peer, reply)
        return len(reply)

    def _hang_up(self, descriptor: int) -> None:
        """Close a connection, for which libzmq has no call; its peer may connect anew."""
        with contextlib.suppress(OSError, ValueError):  # it is closed already, or has no descriptor
            connection = socket.socket(fileno=descriptor)
            try:
                # Since then its number may have become another file's; one of this port takes a broken connection well.
                if self._port and connection.getsockname()[1] == self._port:
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()

    def _handle(
        self, request: Request, header: bytes, rows: bytes, peer: bytes, arrived: float, owner: str, descriptor: int
    ) -> bytes | None:
        """The reply, or None when it will follow."""
        if isinstance(request, Hello):
            return wire.encode(self._welcome(request))
        if isinstance(request, Open):
            opened = self._open(request, digest_of(header), peer, owner)
            return None if opened is None else wire.encode(opened)
        if isinstance(request, Close):
            return wire.encode(self._close(request, owner))
        if isinstance(request, Status):
            return wire.encode(self._status())
        if isinstance(request, Errand):
            running = self._running_errands
            of_this_key = sum(each == owner for each in running.values()) if owner else 0
            if len(running) >= MAX_ERRANDS or of_this_key >= MAX_ERRANDS_EACH or peer in running:
                raise Refused(ErrorCode.BUSY, "too many requests at once", "ask again", 1.0)
            running[peer] = owner
            self._tell_the_clerk(_ErrandJob(peer, owner, request))
            return None
        session, digest = self.sessions.find(request.session, owner), digest_of(header, rows)
        repeats = session.is_repeat(request.seq, digest)
        if repeats and peer != session.waiter and len(session.reply or b"") > LARGE_REPLY:
            # Over the connection before, it may still lie unread; a peer with many would have the cloud hold them all.
            self._hang_up(session.descriptor)
        session.descriptor = descriptor
        if repeats:
            session.waiter = peer
            return session.reply
        if isinstance(request, Finish):
            ids, opening = session.reply_ids(request.end), session.opening
            session.accept(request.seq, digest, peer)
            self._tell_the_clerk(_FinishJob(session, FinishedRun(
                opening.run_id, opening.prompt_id, session.opened_at, opening.prompt_tokens, ids, session.compute_us,
                session.owner,
                session.listed,
            )))  # fmt: skip
            return None
        session.check_step(request, self.welcome.max_seq_len, self.welcome.max_rows)
        tensor = hidden_from_frame(request, rows, dtype=self.dtype, dim=self.welcome.dim)
        session.accept(request.seq, digest, peer)
        job = _StepJob(session, request, tensor, arrived, session.repeated(request))
        session.high_water = max(session.high_water, job.end)
        if job.is_decoding and session.answered is not None:
            self.metrics.away.add(arrived - session.answered)
        self._jobs.put(job)
        return None

    def _welcome(self, request: Hello) -> Welcome:
        if request.version != wire.VERSION:
            raise Refused(ErrorCode.UNSUPPORTED_VERSION, f"the device speaks protocol {request.version}, the cloud "
                          f"{wire.VERSION}", "install the same release on both")  # fmt: skip
        return self.welcome

    def _status(self) -> StatusReport:
        sessions, metrics = self.sessions, self.metrics
        return StatusReport(
            int(time.monotonic() - metrics.started), len(sessions), sessions.slots, len(sessions.line),
            sessions.filled(), sessions.slots * self.welcome.max_seq_len, metrics.tokens,
            sum(metrics.refused.values()), self._draining(),
        )  # fmt: skip

    def _open(self, request: Open, digest: bytes, peer: bytes, owner: str) -> Opened | None:
        """The session, or None where it waits in line for a place."""
        existing = self.sessions.running(request.run_id, owner)
        if existing is not None and existing.opening_digest == digest:
            return Opened(self.sessions.find(existing.id, owner).id, existing.cached)
        if request.fingerprint != self.welcome.fingerprint:
            raise Refused(ErrorCode.WRONG_CHECKPOINT, "the device's half and the cloud's are not from the same split",
                          "copy edge/ and cloud/ from one run of split_checkpoint.py")  # fmt: skip
        wire.check_settings(request)
        if request.prompt_tokens + len(request.resumed_ids) > self.welcome.max_seq_len:
            raise Refused(ErrorCode.OUT_OF_RANGE, f"{request.prompt_tokens} prompt tokens and "
                          f"{len(request.resumed_ids)} resumed ones, but the context is {self.welcome.max_seq_len}",
                          "shorten the prompt or start the cloud with a larger --max_seq_len")  # fmt: skip
        wire.check_ids(request.resumed_ids, self.tokenizer.n_words, "resumed_ids")
        wire.check_ids(request.stop_ids, self.tokenizer.n_words, "stop_ids")
        if self._draining():
            raise _stopping()
        if (owner, request.run_id) not in self.sessions.line and (wait_s := self._runs.wait_s(owner or peer, 0)):
            raise Refused(ErrorCode.BUSY, "more runs a second than one key may begin",
                          "wait, or have the provider raise --max_runs_s_per_key", wait_s)  # fmt: skip
        if existing is not None:
            self._end(existing, Ending.REPLACED)
        self.sessions.wait_in_line(request, digest, peer, owner)
        self._admit()
        return None

    def _admit(self) -> None:
        """Give free places to who is first in line, and tell the others that they still wait."""
        if self._draining():
            for waiting in self.sessions.line.values():
                if waiting.peer is not None:
                    self._send(waiting.peer, self._encoded(_stopping().error))
            self.sessions.line.clear()
        for waiting, session in self.sessions.admitted():
            assert waiting.peer is not None
            session.listed = self.clerk.listed(session.opening.prompt_id)
            self._opened(session)
            prefix = self._prefixes.get(waiting.request.prefix)
            if prefix is not None and prefix.length < waiting.request.prompt_tokens:
                session.begin_with(prefix.length)
                self._jobs.put(_FillJob(session.slot, prefix.number))  # before any step of the session's
            self._send(waiting.peer, wire.encode(Opened(session.id, session.cached)))
        for peer, refusal in self.sessions.to_be_told():
            self._send(peer, wire.encode(refusal.error))

    def _close(self, request: Close, owner: str) -> Closed:
        if not self.sessions.was_closed(request.session, owner):
            self._end(self.sessions.find(request.session, owner), Ending.CLOSED)
        return Closed()

    def _opened(self, session: Session) -> None:
        self.events.info("session_opened", session=session.number, prompt_tokens=session.opening.prompt_tokens)
        self.metrics.opened += 1

    def _end(self, session: Session, why: Ending) -> None:
        """Close a session; its row is cleared after whatever still runs in it, and only then free."""
        self.events.info(
            "session_ended", session=session.number, why=why, seconds=round(time.time() - session.opened_at, 3),
            tokens=len(session.outputs),
        )  # fmt: skip
        self.metrics.ended[why] += 1
        self.sessions.close(session)
        session.closing = True
        self._jobs.put(_ClearJob(session.slot, session.high_water))

    def _answer_finished_jobs(self) -> None:
        while self._results:
            done = self._results.popleft()
            job, result = done.job, done.result
            if isinstance(job, _ClearJob):
                self.sessions.release(job.slot)
                continue
            if isinstance(job, _StepJob):
                reply = self._stepped(job, result)
            else:
                assert not isinstance(result, _Sampled) and result is not None
                reply = result.error if isinstance(result, Refused) else result
            if isinstance(job, _ErrandJob):
                self._running_errands.pop(job.peer, None)
                encoded, peer, owner = self._encoded(reply), job.peer, job.owner
            else:
                session = job.session
                session.last_used = session.answered = time.monotonic()
                if session.closing:  # by another request while this one was worked on
                    reply = unknown_session().error
                encoded, peer, owner = self._encoded(reply), session.waiter, session.owner
                session.reply = encoded
            self._send(peer, encoded)
            self._budgets.charge(owner or peer, size=len(encoded), seconds=done.seconds)

    def _stepped(self, job: _StepJob, result: _Result) -> Reply:
        elapsed_us = round((time.monotonic() - job.arrived) * 1e6)
        job.session.compute_us += elapsed_us
        if isinstance(result, _Sampled):
            job.session.stepped(job.step, result.ids)
            self.metrics.tokens += len(result.ids)
            prompt = job.session.opening.prompt_tokens
            self.metrics.prompt_rows += min(job.end, prompt) - min(job.step.position, prompt)
            return Tokens(tuple(result.ids), elapsed_us, job.step.seq, result.stages)
        assert isinstance(result, Refused)
        job.session.filled = min(job.session.filled, job.step.position)  # what was written there does not count
        return result.error

    def _encoded(self, reply: Reply) -> bytes:
        """A new reply's bytes; a refusal is told of."""
        if isinstance(reply, Error):
            self.events.info("refused", code=reply.code)
            self.metrics.refused[reply.code] += 1
        return wire.encode(reply)

    def _failed(self, err: Exception) -> Refused:
        self.events.error("request_failed", error=type(err).__name__)
        return Refused(
            ErrorCode.INTERNAL, "the cloud failed on this request", "try again; if it stays so, tell the provider"
        )

    def _send(self, peer: bytes, reply: bytes) -> None:
        try:
            self._door.send_multipart([peer, b"", reply], flags=zmq.DONTWAIT)
            self.metrics.sent += len(reply)
        except zmq.ZMQError:
            pass  # the peer has left or does not read; it will ask again if it cares

    # ---- the clerk

    def _keep_the_books(self) -> None:
        while (job := self._clerk_jobs.get()[-1]) is not None:
            result: _Result
            began, working = time.monotonic(), time.thread_time()
            try:
                if isinstance(job, _FinishJob) and job.session.closing:
                    raise unknown_session()  # the device has left it: it is not finished
                result = self.clerk.finish(job.run) if isinstance(job, _FinishJob) else self.clerk.do(job.errand)
            except Refused as refusal:
                result = refusal
            except Exception as err:  # as at the door
                result = self._failed(err)
            working = time.thread_time() - working
            waiting = min(MOST_WAITING_CHARGED_S, time.monotonic() - began - working)
            self._results.append(_Done(job, result, working + max(0.0, waiting)))
            self._ring(self._clerk_rope)

    def _tell_the_clerk(self, job: _ClerkJob | None) -> None:
        """Finished runs first, since a person waits for each of them; but no errand waits for more than some."""
        self._clerk_jobs_put += 1
        turn = self._clerk_jobs_put + (
            0 if isinstance(job, _FinishJob) else math.inf if job is None else FINISHED_FIRST
        )
        self._clerk_jobs.put((turn, self._clerk_jobs_put, job))

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
        last_told, scheduler = time.monotonic(), Scheduler[_StepJob](time.monotonic)
        begun = dict[int, _Sampled]()  # what came of the parts so far of chunks, by slot
        while not stopping() and self._failure is None:
            self._worker_seen = time.monotonic()
            if self._take_jobs(ranks, scheduler, begun):
                last_told = time.monotonic()
            next_pass = scheduler.next()
            if next_pass is not None:
                self._compute(ranks, scheduler, begun, next_pass)
                last_told = time.monotonic()
            elif time.monotonic() - last_told > SIGN_OF_LIFE_S:
                ranks.sign_of_life()
                last_told = time.monotonic()
        ranks.shut_down()

    def _take_jobs(self, ranks: Ranks, scheduler: Scheduler[_StepJob], begun: dict[int, _Sampled]) -> bool:
        """What has come; with nothing to compute, wait for it. True if a row of the cache was cleared or filled."""
        written = False
        try:
            # With steps that wait, only as long as it is worth to wait for others, or as their owner has to.
            job = self._jobs.get(timeout=min(POLL_S, scheduler.wait_s()) if len(scheduler) else POLL_S)
            while True:
                if isinstance(job, _StepJob):
                    scheduler.add(job)
                elif isinstance(job, _FillJob):
                    ranks.fill(job.slot, job.number)
                    written = True
                else:
                    self._results.extend(_Done(step, unknown_session()) for step in scheduler.drop(job.slot))
                    begun.pop(job.slot, None)
                    ranks.clear(job.slot, job.end)
                    self._results.append(_Done(job, None))
                    self._ring(self._worker_rope)
                    written = True
                job = self._jobs.get_nowait()
        except queue.Empty:
            return written

    def _compute(
        self, ranks: Ranks, scheduler: Scheduler[_StepJob], begun: dict[int, _Sampled], next_pass: Pass[_StepJob]
    ) -> None:
        """One pass; its results are handed on, or kept until the last part of a chunk."""
        started = time.monotonic()
        results, sampling_s = self._run(ranks, next_pass)
        seconds = time.monotonic() - started
        is_last = True
        if any(isinstance(result, _Sampled) for result in results):
            is_last = scheduler.computed(next_pass, seconds, sampling_s)
        else:
            scheduler.refused(next_pass)
        if next_pass.is_decoding:
            self.metrics.decoded([started - job.arrived for job in next_pass.steps], seconds)
        else:
            (job,), (result,) = next_pass.steps, results
            before = begun.pop(job.slot, None)
            if isinstance(result, _Sampled):
                result = result if before is None else before.then(result)
                if not is_last:
                    begun[job.slot] = result
                    return
            results = [result]
        self._results.extend(map(_Done, next_pass.steps, results))
        self._ring(self._worker_rope)

    @torch.inference_mode()
    def _run(self, ranks: Ranks, computed: Pass[_StepJob]) -> tuple[list[_Result], float]:
        """One pass: a part of a chunk, or one row of each of several sessions; and seconds for the choice of ids.

        A fault of one's rows is its own.
        """
        jobs = computed.steps
        hidden = {job.slot: job.hidden[computed.start : computed.stop] for job in jobs}
        # One NaN or infinity anywhere makes a sum one.
        good = [job for job in jobs if math.isfinite(hidden[job.slot].sum(dtype=torch.float32))]
        if not good:
            return [_NOT_FINITE] * len(jobs), 0.0
        begun = time.monotonic()
        # A recorded pass is computed anew where it is timed: one that asks for times must not cost the others that.
        timed = (all if ranks.records else any)(job.step.times for job in good)
        clock = StageClock(ranks.device) if timed else None
        try:
            logits = self._logits(ranks, good, computed, hidden, clock)
        except RuntimeError as err:
            if not is_out_of_memory(err) or not ranks.alone:
                raise  # the other ranks are inside a step that this one has left
            return [Refused(ErrorCode.INTERNAL, "the cloud ran out of memory in this step",
                            "send smaller chunks")] * len(jobs), 0.0  # fmt: skip
        if clock is not None:
            clock.stop()
        sampling_began = time.monotonic()
        ids = dict(zip((job.slot for job in good), self._sample(good, logits, computed), strict=True))
        sampling_s = time.monotonic() - sampling_began
        stages = None if clock is None else _stages(clock)
        results = list[_Result]()
        for job in jobs:
            chosen = ids.get(job.slot, _NOT_FINITE)
            if isinstance(chosen, Refused):
                results.append(chosen)
                continue
            times = None
            if stages is not None and job.step.times:
                times = msgspec.structs.replace(stages, queue_us=round((begun - job.arrived) * 1e6))
            results.append(_Sampled(chosen, times))
        return results, sampling_s

    @staticmethod
    def _logits(
        ranks: Ranks, jobs: list[_StepJob], computed: Pass[_StepJob], hidden: Mapping[int, torch.Tensor],
        clock: StageClock | None,
    ) -> torch.Tensor:  # fmt: skip
        """Of the wanted rows of each, ``(B, want, vocab)``."""
        if len(jobs) > 1:
            slots, positions = [job.slot for job in jobs], [job.step.position for job in jobs]
            return ranks.decode(slots, positions, torch.cat([hidden[slot] for slot in slots]), clock)[:, None]
        (job,) = jobs
        want = computed.stop - job.first_wanted(computed.start)
        return ranks.step(job.slot, job.step.position + computed.start, hidden[job.slot], max(0, want), clock)[None]

    def _sample(
        self, jobs: list[_StepJob], logits: torch.Tensor, computed: Pass[_StepJob]
    ) -> list[list[int] | Refused]:
        """The next ids of each session from its logits ``(B, want, vocab)``."""
        words = logits[..., : self.tokenizer.n_words]
        # Of all at once: a GPU is waited for each time that a number is asked of it.
        finite = [math.isfinite(total) for total in logits.sum((-2, -1)).tolist()]
        likeliest = words.argmax(-1).tolist()
        chosen = list[list[int] | Refused]()
        for job, its_words, is_finite, ids in zip(jobs, words, finite, likeliest, strict=True):
            sampling, first = job.session.sampling, job.session.first_output(job.step)
            first += job.first_wanted(computed.start) - job.first_wanted()
            if not is_finite:
                chosen.append(_LOGITS_NOT_FINITE)
            elif sampling.temperature == 0:
                chosen.append(ids)
            else:
                chosen.append([sample(row, sampling, first + i) for i, row in enumerate(its_words)])
        return chosen


class _Until:
    """Whether to stop: at once, or drained."""

    def __init__(
        self, stopping: Callable[[], bool], draining: Callable[[], bool], drain_s: float, sessions: Sessions,
        events: Events,
    ) -> None:  # fmt: skip
        self._stopping, self._draining, self._drain_s = stopping, draining, drain_s
        self._sessions, self._events = sessions, events
        self._since: float | None = None

    def __call__(self) -> bool:
        if self._stopping():
            return True
        if not self._draining():
            return False
        if self._since is None:
            self._since = time.monotonic()
            self._events.info("draining", sessions=len(self._sessions))
        return not len(self._sessions) or time.monotonic() - self._since > self._drain_s


_LOGITS_NOT_FINITE = Refused(
    ErrorCode.NOT_FINITE, "the logits hold NaN or infinity",
    "float16 overflows with some checkpoints: use bfloat16 or float32",
)  # fmt: skip
_NOT_FINITE = Refused(ErrorCode.NOT_FINITE, "the rows hold NaN or infinity", "the device's half is damaged")


def _stopping() -> Refused:
    return Refused(ErrorCode.BUSY, "the cloud is stopping", "another start of it will take the run on", 1.0)


def _added(one: Stages | None, other: Stages | None) -> Stages | None:
    """The times of two parts of a step, which waited only before the first."""
    if one is None or other is None:
        return None
    layers = tuple(map(sum, zip(one.layers_us, other.layers_us, strict=True)))
    return Stages(one.queue_us, layers, one.head_us + other.head_us, one.sample_us + other.sample_us)


def _stages(clock: StageClock) -> Stages:
    clock.stop()
    *layers, head, sampling = clock.stages_us()
    return Stages(0, tuple(layers), head, sampling)
