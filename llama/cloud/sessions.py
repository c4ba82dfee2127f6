"""The open sessions: their slots of the KV cache, their filled positions, and their last replies; and the slot queue.

Bookkeeping only. Knows: ids, positions, sequence numbers, the clock.
Does not know: sockets, tensors, text.
"""

from __future__ import annotations

import enum
import hashlib
import heapq
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from llama.sampling_params import SamplingParams
from llama.sheets import Listed
from llama.wire import SESSION_BYTES, ErrorCode, Open, Refused, Step

REMEMBERED_CLOSED = 4096  # closed sessions for which a repeated Close is still confirmed
HELD_S = 2.0  # an Open in the slot queue is answered by then, before the device assumes that the cloud is dead
FORGOTTEN_S = 3.0  # a queued Open loses its turn if the device does not repeat it within this time
# An owner without a session waits so long. Then a session of an owner with several is ended for it.
SHARE_WAIT_S = 5.0
# If no owner has several, a session this old is ended instead. Its device joins the queue again.
TURN_S = 300.0
AGAIN_S = 60.0  # the minimum time between two sessions ended for the same owner
UNUSED_S = 30.0  # a session without any request is closed after this, since its device may not know of it


class EndReason(enum.StrEnum):
    """Reason why a session has ended."""

    CLOSED = "closed"  # its device closed it
    IDLE = "idle"
    REPLACED = "replaced"  # its run was opened again
    KEY_REMOVED = "key_removed"
    SHARE = "share"  # its owner had more than its share of slots, and another owner waited for its first


@dataclass
class Session:
    """An open session: the run of a device, its slot, its positions and its last reply.

    Args:
        id: 16 random bytes. A peer that knows them, and with keys has the owner's key, may use the session.
        slot: its slot of the KV cache.
        request: the Open that opened it.
        cached: number of positions that were filled when it was opened.
        filled: number of cached positions that count.
        high_water: number of positions ever written; they are cleared when the session ends.
        outputs: sampled id per output index.
        seq: sequence number of the last accepted request; ``digest`` is the digest of that request's bytes.
        reply: the reply to that request, or None while it is computed.
        waiter: routing id of the newest socket that asked for that reply.
        descriptor: descriptor of the connection over which it asked; -1 before the first request.
        opened_at: seconds since 1970, for people; ``last_used`` is on another clock (monotonic).
        owner: the public key that opened it; empty without keys. For all other keys the session does not exist.
        listed: the cloud's sheet of this run, as of the opening; None if there is none.
        number: number used in logs: the count of sessions opened so far, with this one.
        answered: when its last reply was sent, on the clock of ``last_used``; None before the first reply.
        began: when it was opened, on the same clock.
    """

    id: bytes
    slot: int
    request: Open = field(repr=False)
    open_digest: bytes
    last_used: float
    sampling: SamplingParams
    cached: int = 0
    filled: int = 0
    high_water: int = 0
    outputs: list[int] = field(default_factory=list, repr=False)
    seq: int = 0
    digest: bytes = b""
    reply: bytes | None = field(default=b"", repr=False)
    waiter: bytes = b""
    descriptor: int = -1
    compute_us: int = 0
    closing: bool = False
    opened_at: float = field(default_factory=time.time)
    owner: str = field(default="", repr=False)
    listed: Listed | None = field(default=None, repr=False)
    number: int = 0
    answered: float | None = None
    began: float = 0.0

    @property
    def run(self) -> tuple[str, bytes]:
        """Owner and run id. An earlier session of the same run has the same pair."""
        return self.owner, self.request.run_id

    @property
    def busy(self) -> bool:
        """True while a request of this session is computed."""
        return self.reply is None

    def is_repeat(self, seq: int, digest: bytes) -> bool:
        """Return True if this is the last accepted request again, False if it is the next one.

        Raises:
            Refused: ``out_of_sequence`` for any other request.
        """
        if seq == self.seq and digest == self.digest:
            return True
        if seq == self.seq + 1 and not self.busy:
            return False
        what = "was accepted before with other bytes" if seq == self.seq else f"came after request {self.seq}"
        raise Refused(
            ErrorCode.OUT_OF_SEQUENCE,
            f"request {seq} {what}",
            "send each request once and in order, after the reply to the one before",
        )

    def accept(self, seq: int, digest: bytes, waiter: bytes) -> None:
        """Accept request ``seq``. Its reply will go to ``waiter``."""
        self.seq, self.digest, self.waiter, self.reply = seq, digest, waiter, None

    def check_step(self, step: Step, max_seq_len: int, max_rows: int) -> None:
        """Check a step's bounds against the session and the context.

        Raises:
            Refused: ``out_of_range``; the message names the bound.
        """
        end, first_output = step.position + step.rows, self.first_output(step)
        if step.rows > max_rows:
            raise _out_of_range(f"{step.rows} rows in one step; the maximum is {max_rows}", "send smaller chunks")
        if step.position > self.filled:
            raise _out_of_range(
                f"the step begins at position {step.position}, but only {self.filled} positions are cached",
                f"resend from position {self.filled}",
            )
        if end > max_seq_len:
            raise _out_of_range(
                f"the step ends at position {end}, beyond the context of {max_seq_len}",
                "shorten the prompt, or start the cloud with a larger --max_seq_len",
            )
        if step.want > step.rows:
            raise _out_of_range(f"the step wants {step.want} ids for {step.rows} rows", "want at most one id per row")
        if step.want and not 0 <= first_output <= len(self.outputs):
            raise _out_of_range(
                f"the wanted ids begin at output {first_output}, but {len(self.outputs)} outputs are known",
                f"the prompt has {self.request.prompt_tokens} tokens: want ids from its last row on, without a gap",
            )

    def repeated(self, step: Step) -> float:
        """Return the share of a step's rows, 0 to 1, at positions that this session has computed before.

        A run that lost its session continues in a new one. Rows that the old session computed do not count here.
        """
        end = step.position + step.rows
        return max(0, min(end, self.high_water) - step.position) / step.rows

    def begin_with(self, cached: int) -> None:
        """Mark the first ``cached`` positions as filled, from the prefix cache."""
        self.cached = self.filled = self.high_water = cached

    def first_output(self, step: Step) -> int:
        """Return the output index of the first id that ``step`` wants."""
        return step.position + step.rows - step.want + 1 - self.request.prompt_tokens

    def record_step(self, step: Step, ids: list[int]) -> None:
        """Record that a step's rows are cached and that ``ids`` were sampled."""
        self.filled = step.position + step.rows
        if ids:
            first = self.first_output(step)
            self.outputs[first : first + len(ids)] = ids

    def reply_ids(self, end: int) -> list[int]:
        """Return outputs ``0 … end-1``, cut before the first stop id.

        Raises:
            Refused: ``out_of_range`` if there are fewer than ``end``.
        """
        if end > len(self.outputs):
            raise Refused(
                ErrorCode.OUT_OF_RANGE,
                f"the reply cannot end at {end}: it has {len(self.outputs)} ids so far",
                "finish at or before the last received id",
            )
        stop = set(self.request.stop_ids)
        first_stop = next((i for i, token in enumerate(self.outputs[:end]) if token in stop), end)
        return self.outputs[:first_stop]


@dataclass
class WaitingOpen:
    """An Open in the slot queue.

    Args:
        request: the Open.
        digest: digest of its bytes.
        peer: routing id of the socket that waits for the reply; None after ``busy`` until the device asks again.
        asked: when the device asked last, or was last answered ``busy``.
        since: when the device asked first.
    """

    request: Open = field(repr=False)
    digest: bytes
    peer: bytes | None
    asked: float
    since: float


class Sessions:
    """All open sessions, their slots, and the slot queue.

    Args:
        slots: number of slots of the KV cache.
        idle_timeout_s: seconds after which an unused session is closed and its slot goes to the next in the queue.
        clock: monotonic seconds.
        most_waiting: maximum number of Opens in the queue.
        per_owner: maximum number of open and queued sessions of one owner; None for no limit.
    """

    def __init__(
        self,
        slots: int,
        idle_timeout_s: float,
        clock: Callable[[], float],
        most_waiting: int = 64,
        *,
        per_owner: int | None = None,
    ) -> None:
        self.slots, self.idle_timeout_s, self.most_waiting = slots, idle_timeout_s, most_waiting
        self.queue: OrderedDict[tuple[str, bytes], WaitingOpen] = OrderedDict()  # by owner and run id
        self._clock, self._per_owner = clock, per_owner
        self._free = list(range(slots))
        self._opened = 0
        self._by_id: dict[bytes, Session] = {}
        self._by_run: dict[tuple[str, bytes], Session] = {}
        self._closed: OrderedDict[bytes, str] = OrderedDict()  # closed session ids, and their owners
        self._served = dict[str, float]()  # owners for which a session was ended, and when
        self._lost = Counter[tuple[str, bytes]]()  # how often each run has lost its session to another owner

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the open sessions, as of now."""
        return iter(list(self._by_id.values()))

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    def filled(self) -> int:
        """Return the number of cached positions that count, of all sessions."""
        return sum(session.filled for session in self)

    def find(self, session_id: bytes, owner: str = "") -> Session:
        """Return the owner's session, and mark it as used now.

        Raises:
            Refused: ``unknown_session``.
        """
        session = self._by_id.get(session_id)
        if session is None or session.closing or session.owner != owner:
            raise unknown_session()
        session.last_used = self._clock()
        return session

    def running(self, run_id: bytes, owner: str = "") -> Session | None:
        """Return the open session of the owner's run, if there is one."""
        return self._by_run.get((owner, run_id))

    def check_share(self, owner: str) -> None:
        """Check that the owner may have one more session.

        Raises:
            Refused: ``busy``: the owner has the maximum already.
        """
        if self._per_owner is None:
            return
        has = sum(s.owner == owner for s in self) + sum(its == owner for its, _ in self.queue)
        if has >= self._per_owner:
            raise Refused(
                ErrorCode.BUSY,
                f"this key has {self._per_owner} sessions, the maximum at a time",
                "wait until one of them ends",
                2.0,
            )

    def enqueue(self, request: Open, digest: bytes, peer: bytes, owner: str = "") -> None:
        """Add an Open to the slot queue. A repeated Open keeps its turn.

        :meth:`admit` gives the slots, in the order of the first requests.

        Raises:
            Refused: ``busy``: the queue is full, or the owner has the maximum number of sessions.
        """
        turn = (owner, request.run_id)
        there = self.queue.get(turn)
        if there is None:
            self.check_share(owner)
        if there is None or there.digest != digest:
            if len(self.queue) >= self.most_waiting + len(self._free) and there is None:
                raise Refused(
                    ErrorCode.BUSY,
                    f"all {self.slots} slots are taken (sessions in the queue: {len(self.queue)})",
                    "try again later",
                    2.0,
                )
            now = self._clock()
            self.queue[turn] = WaitingOpen(request, digest, peer, now, now)
        else:
            there.peer, there.asked = peer, self._clock()

    def admit(self) -> list[tuple[WaitingOpen, Session]]:
        """Open sessions for the first requests in the queue, as far as slots are free. Return both."""
        now, admitted, kept = self._clock(), list[tuple[WaitingOpen, Session]](), 0
        for (owner, run_id), waiting in list(self.queue.items()):
            if kept >= len(self._free):
                break
            if waiting.peer is None:
                if now - waiting.asked > FORGOTTEN_S:
                    del self.queue[owner, run_id]
                else:
                    kept += 1  # its device is about to ask again: keep the slot for it
                continue
            del self.queue[owner, run_id]
            admitted.append((waiting, self._open(waiting.request, waiting.digest, owner)))
        return admitted

    def beyond_their_share(self) -> list[Session]:
        """Return the session that must end for an owner without one that has waited ``SHARE_WAIT_S``, if there is one.

        So each owner gets a session before another one has several, and no owner keeps one forever. This needs a limit
        per owner: without keys all sessions have the same owner.

        The session is one of the owners with the most sessions. It is the one whose run has lost a session least often,
        and of those the newest. If no owner has several, it is the oldest session, once that is ``TURN_S`` old.
        """
        if self._per_owner is None or self._free or not self.queue or len(self) < self.slots:
            return []
        now, has = self._clock(), Counter(session.owner for session in self)
        waiting = {owner for (owner, _), each in self.queue.items() if now - each.since >= SHARE_WAIT_S} - has.keys()
        self._served = {owner: then for owner, then in self._served.items() if now - then < AGAIN_S}
        waiting -= self._served.keys()
        if not waiting:
            return []
        most = max(has.values())
        several = [session for session in self if has[session.owner] == most > 1]
        old = [session for session in self if most == 1 and now - session.began >= TURN_S]
        if not several and not old:
            return []
        self._served |= dict.fromkeys(waiting, now)
        ended = min(several, key=lambda s: (self._lost[s.run], -s.number)) if several else min(old, key=_number)
        self._lost[ended.run] += 1
        if len(self._lost) > REMEMBERED_CLOSED:
            self._lost.clear()
        return [ended]

    def leave_queue(self, may_stay: Callable[[str], bool]) -> None:
        """Remove the requests of owners that may not stay from the queue."""
        for owner, run_id in list(self.queue):
            if not may_stay(owner):
                del self.queue[owner, run_id]

    def still_waiting(self) -> list[tuple[bytes, Refused]]:
        """Return the peers that have waited ``HELD_S`` for an answer, each with its ``busy``.

        The device then asks again and keeps its turn. Requests that were not repeated in time leave the queue.
        """
        now, answers = self._clock(), list[tuple[bytes, Refused]]()
        for ahead, waiting in enumerate(self.queue.values()):
            if waiting.peer is not None and now - waiting.asked >= HELD_S:
                answers.append(
                    (
                        waiting.peer,
                        Refused(
                            ErrorCode.BUSY,
                            f"all {self.slots} slots are taken (sessions in the queue before yours: {ahead})",
                            "ask again; you keep your turn",
                            0.0,
                        ),
                    )
                )
                waiting.peer, waiting.asked = None, now
        for turn in [t for t, w in self.queue.items() if w.peer is None and now - w.asked > FORGOTTEN_S]:
            del self.queue[turn]
        return answers

    def _open(self, request: Open, digest: bytes, owner: str) -> Session:
        """Open a session in the lowest free slot, since a decoding batch reads all slots between its first and last."""
        sampling = SamplingParams(request.temperature, request.top_p, request.seed)
        self._opened += 1
        session = Session(
            secrets.token_bytes(SESSION_BYTES),
            heapq.heappop(self._free),
            request,
            digest,
            self._clock(),
            sampling,
            outputs=list(request.resumed_ids),
            owner=owner,
            number=self._opened,
            began=self._clock(),
        )
        self._by_id[session.id] = self._by_run[owner, request.run_id] = session
        return session

    def close(self, session: Session) -> None:
        """Remove the session. Its slot stays taken until :meth:`release`, so that it can be cleared before."""
        self._by_id.pop(session.id, None)
        if self._by_run.get(session.run) is session:
            del self._by_run[session.run]
        self._closed[session.id] = session.owner
        if len(self._closed) > REMEMBERED_CLOSED:
            self._closed.popitem(last=False)

    def release(self, slot: int) -> None:
        """Free a slot that has been cleared."""
        heapq.heappush(self._free, slot)

    def was_closed(self, session_id: bytes, owner: str = "") -> bool:
        """Return True if the owner had this session and it is among the last ``REMEMBERED_CLOSED`` closed ones."""
        return self._closed.get(session_id) == owner

    def idle(self) -> list[Session]:
        """Return the sessions that have been unused for too long."""
        now = self._clock()
        unused_s = min(UNUSED_S, self.idle_timeout_s)
        return [
            s
            for s in self._by_id.values()
            if now - s.last_used > (self.idle_timeout_s if s.seq else unused_s) and not s.busy
        ]


def unknown_session() -> Refused:
    """Return the refusal of a request for a session that does not exist, or no longer."""
    return Refused(
        ErrorCode.UNKNOWN_SESSION,
        "no such session; it was closed, was idle for too long, or the cloud was restarted",
        "open the run again with its ids so far",
    )


def _number(session: Session) -> int:
    return session.number


def _out_of_range(message: str, advice: str) -> Refused:
    return Refused(ErrorCode.OUT_OF_RANGE, message, advice)


def digest_of(*frames: bytes | memoryview) -> bytes:
    """Return the digest by which a repeated request is recognised."""
    h = hashlib.blake2b(digest_size=16)
    for frame in frames:
        h.update(len(frame).to_bytes(8, "little"))
        h.update(frame)
    return h.digest()
