"""The scheduler: it chooses the steps of the next forward pass, and shares the model's time among the owners.

Each session has at most one waiting step. *Decoding* steps have one position and want the next id. They share a forward
pass: most of its cost is reading the weights, which happens once for all of them. All other steps are *chunks*. Parts
of chunks and decoding passes take turns, one part at a time.

**Shares.** Three rules limit the time that a chunk takes from other owners:

- While other owners are at work, a part of a chunk takes no longer than :data:`PART_PASSES` decoding passes, according
  to the scheduler's estimate.
- The owner with the lowest usage in the last seconds (:data:`WINDOW_S`) comes first.
- While other owners decode, an owner's chunks get about a quarter of the time, and less if many owners have chunks. An
  owner over its part waits.

An owner that is alone gets all of the time, and its chunks are not divided. The scheduler uses measured time, which
includes the choice of ids. Positions that a session has computed before count twice (:attr:`WaitingStep.repeated`).

Bookkeeping only. Knows: slots, positions, owners as names, the clock. Does not know: tensors, sockets, keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

# Before a decoding pass the scheduler waits for sessions that it expects back, for this share of the last pass's time.
# A device handles a token in a fraction of the cloud's time, and a pass without it costs nearly as much as one with it.
GATHERING_SHARE = 0.3
MOST_GATHERING_S = 0.02
# A batch reads all slots from its first to its last, each up to the end of its longest step. It may read at most WASTE
# times the positions that it needs, plus FREE_WASTE positions.
WASTE, FREE_WASTE = 4, 1024
# A part of a chunk should take the time of so many decoding passes. A part is a pass, too, so it loses the time of one
# of them. With the pass after it, a decoding session gets its next token within five.
PART_PASSES = 3.0
LENGTH_STEP = 16  # longer parts have a multiple of so many positions
# After so long a use of the model counts 1/e: seconds, or decoding passes, the longer of the two.
WINDOW_S, WINDOW_PASSES = 4.0, 50
CHUNKS_SHARE = 0.27  # maximum share of the time for the chunks of one owner while others decode
# Between two tokens a session is away. It counts as decoding for this long, or for this multiple of its usual time, the
# longer of the two.
AWAY_S, AWAY_TIMES = 0.25, 3.0
# The most that chunks of an owner may take at once after a pause of any length: seconds, or decoding passes, the longer
# of the two.
CREDIT_S, CREDIT_PASSES = 0.6, 8
# An owner counts as at work for so long after its last step, so that slow devices on slow connections count, too.
AT_WORK_S = 10.0
LONG_CONTEXT = 2048  # at this position a position costs about twice as much as at the beginning
UNTRIED_POSITIONS = 8  # positions of the first part of a chunk, and the fewest whose time is learnt from
LEAST_OF_A_PASS = 0.5  # minimum share of a pass's time that counts for its positions; the rest is its fixed cost
LEARNING = 0.3  # weight of the newest measurement


class WaitingStep(Protocol):
    """The attributes of a step that the scheduler uses."""

    @property
    def slot(self) -> int:
        """The session's slot of the KV cache."""

    @property
    def owner(self) -> Hashable:
        """Owner of the step's session."""

    @property
    def length(self) -> int:
        """Number of positions."""

    @property
    def end(self) -> int:
        """Position after the step's last one."""

    @property
    def sampled(self) -> int:
        """Number of positions, at its end, whose next id is drawn at random. Each draw costs extra time."""

    @property
    def repeated(self) -> float:
        """Share of its positions, 0 to 1, that the session has computed before."""

    @property
    def is_decoding(self) -> bool:
        """True for a step of one position whose next id is wanted."""


_Step = TypeVar("_Step", bound=WaitingStep)


@dataclass(frozen=True)
class Batch(Generic[_Step]):
    """The next work of the model: decoding steps, by ascending slot, or positions ``start … stop-1`` of one chunk."""

    steps: list[_Step]
    start: int = 0
    stop: int = 1

    @property
    def is_decoding(self) -> bool:
        """True if its steps decode."""
        return self.steps[0].is_decoding


class DecayingUsage:
    """Seconds of the model's time that each owner has used recently. Each use decays to 1/e within ``window_s``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self.window_s = clock, WINDOW_S
        self._used = dict[Hashable, tuple[float, float]]()  # seconds used, as of when

    def of(self, owner: Hashable) -> float:
        """Return the owner's decayed usage, in seconds."""
        used, then = self._used.get(owner, (0.0, 0.0))
        return used * math.exp((then - self._clock()) / self.window_s) if used else 0.0

    def add(self, owner: Hashable, seconds: float, least: float = 0.0) -> None:
        """Add a use of ``seconds``, now. If the usage was below ``least`` seconds, raise it to ``least`` first."""
        now = self._clock()
        self._used[owner] = max(self.of(owner), least) + seconds, now
        if len(self._used) > 1024:
            self._used = {each: use for each, use in self._used.items() if now - use[1] < 10 * self.window_s}


class Costs:
    """Estimates of how long passes take, learnt from measured passes.

    A pass takes a fixed time, which is about that of a decoding pass, and some time for each position.

    Attributes:
        decoding_s: seconds of a decoding pass; None before the first.
    """

    def __init__(self) -> None:
        self.decoding_s: float | None = None
        self._position_s: float | None = None  # seconds of a position at the beginning of a context
        self._sample_s: float | None = None  # seconds of an id that is drawn

    def learn_decoding(self, seconds: float) -> None:
        """Learn from a decoding pass that took ``seconds``."""
        self.decoding_s = _learnt(self.decoding_s, seconds)

    def learn(self, positions: int, end: int, sampled: int, seconds: float, sampling_s: float) -> None:
        """Learn from a part of a chunk that took ``seconds``, ``sampling_s`` of them to draw ``sampled`` ids."""
        if sampled:
            self._sample_s = _learnt(self._sample_s, sampling_s / sampled)
        if positions >= UNTRIED_POSITIONS:  # the time of a pass with fewer is mostly its fixed cost
            seconds -= sampling_s
            positions_s = max(seconds - (self.decoding_s or 0.0), LEAST_OF_A_PASS * seconds)
            self._position_s = _learnt(self._position_s, positions_s / (positions * _dearness(end)))

    def positions_within(self, seconds: float, step: WaitingStep, start: int) -> int:
        """Return how many positions of a chunk, from ``start`` on, fit into ``seconds``; at least 1.

        Before the first measurement this is ``UNTRIED_POSITIONS``.
        """
        left, seconds = step.length - start, seconds - (self.decoding_s or 0.0)
        if self._position_s is None:
            return min(left, UNTRIED_POSITIONS)
        position_s = self._position_s * _dearness(step.end)
        unsampled = max(0, left - step.sampled)
        positions = min(unsampled, int(seconds / position_s))
        if positions == unsampled and positions < left:
            positions += (
                1 if self._sample_s is None else int((seconds - positions * position_s) / (position_s + self._sample_s))
            )
        positions = max(1, positions)
        if positions >= left:
            return left
        # Use few different numbers: kernels are made and kept for each number when it first occurs.
        return positions // LENGTH_STEP * LENGTH_STEP or 1 << positions.bit_length() - 1


def _learnt(known: float | None, measured: float) -> float:
    return measured if known is None else known + LEARNING * (measured - known)


def _dearness(end: int) -> float:
    """Return the cost of a position that attends to ``end`` positions, in units of one that attends to none."""
    return 1 + end / LONG_CONTEXT


@dataclass
class _Away:
    """A decoding slot between two of its passes.

    Attributes:
        owner: owner of its session.
        since: when its last pass ended.
        usual_s: its usual time between two passes, in seconds; None before the first.
    """

    owner: Hashable
    since: float = 0.0
    usual_s: float | None = None

    @property
    def until(self) -> float:
        """Time from which it no longer counts as decoding."""
        return self.since + max(AWAY_S, AWAY_TIMES * (self.usual_s or 0.0))

    def comes_back(self, now: float) -> None:
        """Learn from the time that the slot was away: its next position has arrived."""
        self.usual_s = _learnt(self.usual_s, now - self.since)


class Scheduler(Generic[_Step]):
    """The waiting steps, and the choice of the next batch.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._decoding = dict[int, _Step]()  # by slot, in the order of arrival
        self._chunks = dict[int, _Step]()  # likewise
        self._done = dict[int, int]()  # number of computed positions of a chunk, by slot
        self._chunk_is_next = False
        self._expected = dict[int, float]()  # slot: time until which the next pass waits for its next position
        self._at_work = dict[int, tuple[Hashable, float]]()  # slot: its owner, and until when it counts as at work
        self._away = dict[int, _Away]()  # decoding slots
        self.usage, self.costs = DecayingUsage(clock), Costs()

    def __len__(self) -> int:
        return len(self._decoding) + len(self._chunks)

    def add(self, step: _Step) -> None:
        """Add a waiting step. Its session must not have another one."""
        self._expected.pop(step.slot, None)
        if step.is_decoding and step.slot in self._away:
            self._away[step.slot].comes_back(self._clock())
        (self._decoding if step.is_decoding else self._chunks)[step.slot] = step

    def drop(self, slot: int) -> list[_Step]:
        """Remove a slot's waiting step, since its session has ended. Return it in a list."""
        self._expected.pop(slot, None)
        self._at_work.pop(slot, None)
        self._away.pop(slot, None)
        return self.cancel(slot)

    def cancel(self, slot: int) -> list[_Step]:
        """Remove a slot's waiting step; its session continues. Return it in a list."""
        self._done.pop(slot, None)
        return [step for waiting in (self._decoding, self._chunks) if (step := waiting.pop(slot, None)) is not None]

    def next(self) -> Batch[_Step] | None:
        """Return the batch to compute now, or None while it is better to wait (:meth:`wait_s`).

        The rest of a chunk stays here until :meth:`complete` gets its last part.
        """
        chunk = self._chunk() if self._chunks else None
        if chunk is not None and (self._chunk_is_next or not self._decoding):
            self._chunk_is_next = False
            return chunk
        if not self._decoding or (chunk is None and self._gathering_s() > 0):
            return None
        self._chunk_is_next = True
        together = self._decode_batch()
        for step in together:
            del self._decoding[step.slot]
        return Batch(sorted(together, key=lambda step: step.slot))

    def wait_s(self) -> float:
        """Return the seconds until :meth:`next` may return a batch that it does not return now."""
        if self._chunks and not self._decoding:
            return min(self._over_its_part_s(step.owner) for step in self._chunks.values())
        return self._gathering_s()

    def complete(self, batch: Batch[_Step], seconds: float, sampling_s: float = 0.0) -> bool:
        """Record a batch of ``seconds``, ``sampling_s`` of them to draw ids. Return True if it ends its steps."""
        now = self._clock()
        self._at_work.update((step.slot, (step.owner, now + AT_WORK_S)) for step in batch.steps)
        if batch.is_decoding:
            self.costs.learn_decoding(seconds)
            self.usage.window_s = max(WINDOW_S, WINDOW_PASSES * (self.costs.decoding_s or 0))
            until = now + min(GATHERING_SHARE * seconds, MOST_GATHERING_S)
            self._expected.update((step.slot, until) for step in batch.steps)
            for step in batch.steps:
                self._away.setdefault(step.slot, _Away(step.owner)).since = now
            return True
        (step,) = batch.steps
        sampled = max(0, batch.stop - max(batch.start, step.length - step.sampled))
        self.costs.learn(batch.stop - batch.start, step.end, sampled, seconds, sampling_s)
        credit = max(CREDIT_S, CREDIT_PASSES * (self.costs.decoding_s or 0.0))
        self.usage.add(step.owner, seconds * (1 + step.repeated), self._part(step.owner) - credit)
        if batch.stop < step.length and self._chunks.get(step.slot) is step:
            self._done[step.slot] = batch.stop
            return False
        self.cancel(step.slot)
        return True

    def fail(self, batch: Batch[_Step]) -> None:
        """Remove the steps of a batch that failed and whose steps are answered. Nothing is learnt from it."""
        for step in batch.steps:
            self.cancel(step.slot)

    # ---- inside

    def _gathering_s(self) -> float:
        """Return the seconds for which the next decoding pass waits for sessions that are expected back."""
        now = self._clock()
        self._expected = {slot: until for slot, until in self._expected.items() if until > now}
        return max(self._expected.values(), default=now) - now

    def _others_at_work(self, owner: Hashable) -> bool:
        now = self._clock()
        self._at_work = {slot: at_work for slot, at_work in self._at_work.items() if at_work[1] > now}
        return (
            any(each != owner for each, _ in self._at_work.values())
            or any(step.owner != owner for step in self._decoding.values())
            or any(step.owner != owner for step in self._chunks.values())
        )

    def _others_decode_s(self, owner: Hashable) -> float:
        """Return the seconds for which other owners still count as decoding; infinity while one waits for a pass."""
        if any(step.owner != owner for step in self._decoding.values()):
            return math.inf
        now = self._clock()
        return max((away.until - now for away in self._away.values() if away.owner != owner), default=0.0)

    def _over_its_part_s(self, owner: Hashable) -> float:
        """Return the seconds until an owner's chunk may run, or 0 if it may run now.

        It waits until the owner's usage is no more than its part, or until no other owner decodes.
        """
        decode_s = self._others_decode_s(owner)
        if decode_s <= 0:
            return 0.0
        part, used = self._part(owner), self.usage.of(owner)
        return min(decode_s, self.usage.window_s * math.log(used / part)) if used > part else 0.0

    def _part(self, owner: Hashable) -> float:
        """Return the seconds of the window that an owner's chunks may take while others decode.

        The decoding sessions count as one more owner.
        """
        owners = len({step.owner for step in self._chunks.values()} | {owner})
        return min(CHUNKS_SHARE, 1 / (owners + 1)) * self.usage.window_s

    def _chunk(self) -> Batch[_Step] | None:
        """Return a part of the chunk whose owner has the lowest usage, the first on a tie; None while all must wait."""
        step = min(self._chunks.values(), key=lambda step: self.usage.of(step.owner))
        if self._over_its_part_s(step.owner) > 0:
            return None
        start, positions = self._done.get(step.slot, 0), step.length
        if self.costs.decoding_s is not None and self._others_at_work(step.owner):
            positions = start + self.costs.positions_within(PART_PASSES * self.costs.decoding_s, step, start)
        return Batch([step], start, positions)

    def _decode_batch(self) -> list[_Step]:
        """Return decoding steps that may share a pass, including the one that has waited longest."""
        together = list[_Step]()
        for step in self._decoding.values():
            batch = [*together, step]
            slots = [each.slot for each in batch]
            read = (max(slots) - min(slots) + 1) * max(each.end for each in batch)
            if not together or read <= WASTE * sum(each.end for each in batch) + FREE_WASTE:
                together = batch
        return together
