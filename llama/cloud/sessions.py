"""Who holds which slot of the KV cache, how far it is filled, and what was answered last.

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

REMEMBERED_CLOSED = 4096  # sessions whose resent Close still gets its answer
HELD_S = 2.0  # an Open that waits for a slot is answered by then, before the device takes the cloud for dead
FORGOTTEN_S = 3.0  # one that waits and is not asked again loses its turn
SHARE_WAIT_S = 5.0  # an owner without a session waits so long for those who have several to end one,
TURN_S = 300.0  # and for those who have one, until it is so old: then its device joins the queue again
AGAIN_S = 60.0  # no session is ended for an owner sooner after the last one that was
UNUSED_S = 30.0  # a session without a single request is closed after this, since its device may never have heard of it


class EndReason(enum.StrEnum):
    """Why a session has ended."""

    CLOSED = "closed"  # its device asked for it
    IDLE = "idle"
    REPLACED = "replaced"  # its run was opened anew
    KEY_REMOVED = "key_removed"
    SHARE = "share"  # its owner had more slots than its part, and another owner waited for its first


@dataclass
class Session:
    """One run of one device.

    Args:
        id: 16 random bytes; knowing them, and having the owner's key where keys are used, is owning the session.
        slot: of the KV cache.
        request: what it was opened with.
        cached: positions that were filled when it was opened.
        filled: cached positions that count.
        high_water: positions ever written, to be cleared when the slot is given back.
        outputs: sampled id per output index.
        seq: the last request accepted; ``digest`` is of its bytes.
        reply: the answer to it, or None while it is being computed.
        waiter: who wants that answer; the newest socket that asked.
        descriptor: of the connection over which it asked; -1 before.
        opened_at: seconds since 1970; for people, who have other clocks than ``last_used``.
        owner: the public key that opened it; empty without keys. To all others it does not exist.
        listed: the cloud's sheet that it is a run of, as it was then; None where there is none.
        number: how many have been opened, up to this one: its number in logs.
        answered: when its last reply was handed out, on the clock of ``last_used``; None before the first.
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
        """Its owner and its run's id, which it shares with the session that the run had before."""
        return self.owner, self.request.run_id

    @property
    def busy(self) -> bool:
        """A request of this session is being computed."""
        return self.reply is None

    def is_repeat(self, seq: int, digest: bytes) -> bool:
        """True for the last accepted request once more, False for the next one.

        Raises:
            Refused: ``out_of_sequence`` for any other.
        """
        if seq == self.seq and digest == self.digest:
            return True
        if seq == self.seq + 1 and not self.busy:
            return False
        what = "came before with other bytes" if seq == self.seq else f"came after {self.seq}"
        raise Refused(ErrorCode.OUT_OF_SEQUENCE, f"request {seq} {what}", "send each request once, in order")

    def accept(self, seq: int, digest: bytes, waiter: bytes) -> None:
        """Take request ``seq`` on: its answer is owed to ``waiter``."""
        self.seq, self.digest, self.waiter, self.reply = seq, digest, waiter, None

    def check_step(self, step: Step, max_seq_len: int, max_rows: int) -> None:
        """Check a step's bounds against the session and the context.

        Raises:
            Refused: ``out_of_range``, with what the bounds are.
        """
        end, first_output = step.position + step.rows, self.first_output(step)
        if step.rows > max_rows:
            raise _out_of_range(f"{step.rows} rows in one step; the most is {max_rows}", "send smaller chunks")
        if step.position > self.filled:
            raise _out_of_range(
                f"rows at position {step.position}, but only {self.filled} are cached",
                f"resend from position {self.filled}",
            )
        if end > max_seq_len:
            raise _out_of_range(
                f"positions up to {end}, but the context is {max_seq_len}",
                "shorten the prompt or start the cloud with a larger --max_seq_len",
            )
        if step.want > step.rows:
            raise _out_of_range(f"{step.want} ids wanted of {step.rows} rows", "want at most one id per row")
        if step.want and not 0 <= first_output <= len(self.outputs):
            raise _out_of_range(
                f"the ids wanted begin at output {first_output} of {len(self.outputs)} known",
                f"the prompt has {self.request.prompt_tokens} tokens: want ids from its last row on, without a gap",
            )

    def repeated(self, step: Step) -> float:
        """Which part of a step's rows, 0 to 1, stands at positions that this session has computed before.

        A run that goes on after a lost session has another one: what it computes again is not counted here.
        """
        end = step.position + step.rows
        return max(0, min(end, self.high_water) - step.position) / step.rows

    def begin_with(self, cached: int) -> None:
        """Its first positions are filled from what was kept of others'."""
        self.cached = self.filled = self.high_water = cached

    def first_output(self, step: Step) -> int:
        """Output index of the first id that ``step`` wants."""
        return step.position + step.rows - step.want + 1 - self.request.prompt_tokens

    def record_step(self, step: Step, ids: list[int]) -> None:
        """Rows were cached and ids sampled."""
        self.filled = step.position + step.rows
        if ids:
            first = self.first_output(step)
            self.outputs[first : first + len(ids)] = ids

    def reply_ids(self, end: int) -> list[int]:
        """Outputs ``0 … end-1``, cut before the first stop id.

        Raises:
            Refused: ``out_of_range`` when there are fewer.
        """
        if end > len(self.outputs):
            raise Refused(
                ErrorCode.OUT_OF_RANGE,
                f"the reply cannot end at {end}: {len(self.outputs)} ids so far",
                "finish at or before the last id received",
            )
        stop = set(self.request.stop_ids)
        first_stop = next((i for i, token in enumerate(self.outputs[:end]) if token in stop), end)
        return self.outputs[:first_stop]


@dataclass
class WaitingOpen:
    """An Open that waits for a slot.

    Args:
        request: what is to be opened.
        digest: of its bytes.
        peer: who is to be answered, or None between one asking and the next.
        asked: when it was asked last.
        since: when it was asked first.
    """

    request: Open = field(repr=False)
    digest: bytes
    peer: bytes | None
    asked: float
    since: float


class Sessions:
    """All sessions, the slots they hold, and who waits for one.

    Args:
        slots: of the KV cache.
        idle_timeout_s: a session unused for so long is closed and its slot given to the next.
        clock: monotonic seconds.
        most_waiting: Opens that may wait for a slot.
        per_owner: most sessions of one owner at a time, those that wait included; None is no limit.
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
        self._closed: OrderedDict[bytes, str] = OrderedDict()  # with whose they were
        self._served = dict[str, float]()  # for whom a session was ended, and when
        self._lost = Counter[tuple[str, bytes]]()  # how often a run has lost its session to another owner

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        """Those that are open now."""
        return iter(list(self._by_id.values()))

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._free)

    def filled(self) -> int:
        """Cached positions that count, of all."""
        return sum(session.filled for session in self)

    def find(self, session_id: bytes, owner: str = "") -> Session:
        """The owner's session, marked as used now.

        Raises:
            Refused: ``unknown_session``.
        """
        session = self._by_id.get(session_id)
        if session is None or session.closing or session.owner != owner:
            raise unknown_session()
        session.last_used = self._clock()
        return session

    def running(self, run_id: bytes, owner: str = "") -> Session | None:
        """The open session of the owner's run, if there is one."""
        return self._by_run.get((owner, run_id))

    def check_share(self, owner: str) -> None:
        """The owner may have one more.

        Raises:
            Refused: ``busy``.
        """
        if self._per_owner is None:
            return
        has = sum(s.owner == owner for s in self) + sum(its == owner for its, _ in self.queue)
        if has >= self._per_owner:
            raise Refused(
                ErrorCode.BUSY,
                f"this key has {self._per_owner} sessions, the most at a time",
                "wait for one of them",
                2.0,
            )

    def enqueue(self, request: Open, digest: bytes, peer: bytes, owner: str = "") -> None:
        """Ask for a slot; :meth:`admit` gives it, in the order of first asking. Asking again keeps one's turn.

        Raises:
            Refused: ``busy``: too many wait already.
        """
        turn = (owner, request.run_id)
        there = self.queue.get(turn)
        if there is None:
            self.check_share(owner)
        if there is None or there.digest != digest:
            if len(self.queue) >= self.most_waiting + len(self._free) and there is None:
                raise Refused(
                    ErrorCode.BUSY,
                    f"all {self.slots} slots are taken, and {len(self.queue)} wait for one",
                    "try again later",
                    2.0,
                )
            now = self._clock()
            self.queue[turn] = WaitingOpen(request, digest, peer, now, now)
        else:
            there.peer, there.asked = peer, self._clock()

    def admit(self) -> list[tuple[WaitingOpen, Session]]:
        """Those whose turn has come, with their new sessions."""
        now, admitted, kept = self._clock(), list[tuple[WaitingOpen, Session]](), 0
        for (owner, run_id), waiting in list(self.queue.items()):
            if kept >= len(self._free):
                break
            if waiting.peer is None:
                if now - waiting.asked > FORGOTTEN_S:
                    del self.queue[owner, run_id]
                else:
                    kept += 1  # it is about to ask again: its slot is kept
                continue
            del self.queue[owner, run_id]
            admitted.append((waiting, self._open(waiting.request, waiting.digest, owner)))
        return admitted

    def beyond_their_share(self) -> list[Session]:
        """A session to be ended, so that every owner has one before anybody has several, and none for ever.

        Only with a limit per owner: else everybody is the same one. Of who has most, the session whose run has lost
        one least often, and of those the newest; where nobody has several, the oldest, once it has had its turn.
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
        """Take out of the queue whose owners may not stay."""
        for owner, run_id in list(self.queue):
            if not may_stay(owner):
                del self.queue[owner, run_id]

    def still_waiting(self) -> list[tuple[bytes, Refused]]:
        """Give the peers that have waited long enough to be told so, and what: to ask again, which keeps the turn."""
        now, answers = self._clock(), list[tuple[bytes, Refused]]()
        for ahead, waiting in enumerate(self.queue.values()):
            if waiting.peer is not None and now - waiting.asked >= HELD_S:
                answers.append(
                    (
                        waiting.peer,
                        Refused(
                            ErrorCode.BUSY,
                            f"all {self.slots} slots are taken, and {ahead} wait before you",
                            "ask again: your turn is kept",
                            0.0,
                        ),
                    )
                )
                waiting.peer, waiting.asked = None, now
        for turn in [t for t, w in self.queue.items() if w.peer is None and now - w.asked > FORGOTTEN_S]:
            del self.queue[turn]
        return answers

    def _open(self, request: Open, digest: bytes, owner: str) -> Session:
        """Open a session in the lowest free slot: slots that are close together are read together."""
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
        """Forget the session. Its slot stays taken until :meth:`release`, so that it can be cleared in between."""
        self._by_id.pop(session.id, None)
        if self._by_run.get(session.run) is session:
            del self._by_run[session.run]
        self._closed[session.id] = session.owner
        if len(self._closed) > REMEMBERED_CLOSED:
            self._closed.popitem(last=False)

    def release(self, slot: int) -> None:
        """Give a slot back, which has been cleared."""
        heapq.heappush(self._free, slot)

    def was_closed(self, session_id: bytes, owner: str = "") -> bool:
        """True when the owner had this session and it was closed not too long ago."""
        return self._closed.get(session_id) == owner

    def idle(self) -> list[Session]:
        """Sessions that have been unused for too long."""
        now = self._clock()
        unused_s = min(UNUSED_S, self.idle_timeout_s)
        return [
            s
            for s in self._by_id.values()
            if now - s.last_used > (self.idle_timeout_s if s.seq else unused_s) and not s.busy
        ]


def unknown_session() -> Refused:
    """The refusal of a request for a session that is not there, or no longer."""
    return Refused(
        ErrorCode.UNKNOWN_SESSION,
        "no such session; it was closed, idle for too long, or is of an earlier start of the cloud",
        "open the run again with its ids so far",
    )


def _number(session: Session) -> int:
    return session.number


def _out_of_range(message: str, advice: str) -> Refused:
    return Refused(ErrorCode.OUT_OF_RANGE, message, advice)


def digest_of(*frames: bytes | memoryview) -> bytes:
    """Digest by which a repeated request is recognised."""
    h = hashlib.blake2b(digest_size=16)
    for frame in frames:
        h.update(len(frame).to_bytes(8, "little"))
        h.update(frame)
    return h.digest()
