"""Which steps go through the model together next, and how much of the time each owner's prompts get.

Every session has at most one step that waits. Steps of one position that want the next id, *decoding*, share a forward
pass: reading the weights is what costs, and is paid once. All other steps are *chunks*. They take turns with the passes
that decode, one part of a chunk at a time.

**Shares.** Three rules bound what a chunk takes from others:

- While others are at work, a part of a chunk takes no longer than :data:`PART_PASSES` passes that decode, as far as
  that can be told beforehand.
- The owner that has used least of the last seconds (:data:`WINDOW_S`) is served first.
- While others decode, an owner's chunks get about a quarter of the time, and less where there are many such owners. One
  that has had more waits.

Whoever is alone gets all of the time, and its chunks whole. Time is measured, with the choice of ids in it. Positions
that a session has computed before count twice (:attr:`WaitingStep.repeated`).

Bookkeeping only. Knows: slots, positions, owners as names, the clock. Does not know: tensors, sockets, keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

# Share of a pass's own time that the next one waits for sessions that are about to come back: a device is done with a
# token in a fraction of the time that the cloud takes, and a pass without it costs nearly as much as one with it.
GATHERING_SHARE = 0.3
MOST_GATHERING_S = 0.02
# Slots that share a batch are read to the end of the longest, with the slots in between: what may be read in vain.
WASTE, FREE_WASTE = 4, 1024  # times what is needed, and positions
# Passes that decode, in whose time a part of a chunk should be done. A part is a pass, too, so one of them is lost;
# with the pass that follows, whoever decodes has its next token within five.
PART_PASSES = 3.0
LENGTH_STEP = 16  # parts of more positions have a multiple of it
# After so long a use of the model counts 1/e: seconds, or passes that decode, whichever is longer.
WINDOW_S, WINDOW_PASSES = 4.0, 50
CHUNKS_SHARE = 0.27  # of the time, at most, for the chunks of an owner, while others decode
# Who decodes is away between two tokens: so long at least, or so many times what it usually takes, it still decodes.
AWAY_S, AWAY_TIMES = 0.25, 3.0
# What chunks of an owner may take at once, however long it has not asked for anything: seconds, or passes that decode.
CREDIT_S, CREDIT_PASSES = 0.6, 8
# An owner whose last step was done so long ago, or less, is still at work: slow devices over slow lines are, too.
AT_WORK_S = 10.0
LONG_CONTEXT = 2048  # positions at which a position costs about twice of what it costs at the beginning
UNTRIED_POSITIONS = 8  # of the first part of a chunk; and how many it takes to learn from what they took
LEAST_OF_A_PASS = 0.5  # of its time, that its positions take: the rest is there however few they are
LEARNING = 0.3  # weight of the newest measurement


class WaitingStep(Protocol):
    """A step, as far as it matters here."""

    @property
    def slot(self) -> int:
        """The session's slot of the KV cache."""

    @property
    def owner(self) -> Hashable:
        """Whose it is."""

    @property
    def length(self) -> int:
        """How many positions it has."""

    @property
    def end(self) -> int:
        """One past its last position."""

    @property
    def sampled(self) -> int:
        """How many of its last positions have their next id drawn by chance, which costs by itself."""

    @property
    def repeated(self) -> float:
        """Which part of its positions, 0 to 1, the session has computed before."""

    @property
    def is_decoding(self) -> bool:
        """One position, whose next id is wanted."""


_Step = TypeVar("_Step", bound=WaitingStep)


@dataclass(frozen=True)
class Batch(Generic[_Step]):
    """What is computed next: decoding steps, by ascending slot; or positions ``start … stop-1`` of one chunk."""

    steps: list[_Step]
    start: int = 0
    stop: int = 1

    @property
    def is_decoding(self) -> bool:
        """Its steps decode."""
        return self.steps[0].is_decoding


class DecayingUsage:
    """How much each owner has used of the last seconds: every use fades, to 1/e of it within ``window_s``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self.window_s = clock, WINDOW_S
        self._used = dict[Hashable, tuple[float, float]]()  # seconds used, as of when

    def of(self, owner: Hashable) -> float:
        """Seconds."""
        used, then = self._used.get(owner, (0.0, 0.0))
        return used * math.exp((then - self._clock()) / self.window_s) if used else 0.0

    def add(self, owner: Hashable, seconds: float, least: float = 0.0) -> None:
        """Another use, now; where there were fewer than ``least`` seconds, it comes on top of those."""
        now = self._clock()
        self._used[owner] = max(self.of(owner), least) + seconds, now
        if len(self._used) > 1024:
            self._used = {each: use for each, use in self._used.items() if now - use[1] < 10 * self.window_s}


class Costs:
    """What passes will take, learnt from those that were.

    A pass takes some time whatever is in it, which is what one that decodes takes, about; and some for each position.

    Attributes:
        decoding_s: seconds of a pass that decodes; None before the first.
    """

    def __init__(self) -> None:
        self.decoding_s: float | None = None
        self._position_s: float | None = None  # of a position at the beginning of a context
        self._sample_s: float | None = None  # of an id that is drawn

    def learn_decoding(self, seconds: float) -> None:
        """A pass that decodes took so long."""
        self.decoding_s = _learnt(self.decoding_s, seconds)

    def learn(self, positions: int, end: int, sampled: int, seconds: float, sampling_s: float) -> None:
        """A part of a chunk took ``seconds``, ``sampling_s`` of them to draw ``sampled`` ids."""
        if sampled:
            self._sample_s = _learnt(self._sample_s, sampling_s / sampled)
        if positions >= UNTRIED_POSITIONS:  # of fewer, what is measured is the pass
            seconds -= sampling_s
            positions_s = max(seconds - (self.decoding_s or 0.0), LEAST_OF_A_PASS * seconds)
            self._position_s = _learnt(self._position_s, positions_s / (positions * _dearness(end)))

    def positions_within(self, seconds: float, step: WaitingStep, start: int) -> int:
        """How many positions of a chunk, from ``start`` on, are computed within ``seconds``; 1 at least.

        Without experience a few are tried.
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
        # Few numbers: kernels are made for each when it first occurs, and kept.
        return positions // LENGTH_STEP * LENGTH_STEP or 1 << positions.bit_length() - 1


def _learnt(known: float | None, measured: float) -> float:
    return measured if known is None else known + LEARNING * (measured - known)


def _dearness(end: int) -> float:
    """What a position that looks back at so many positions costs, in positions that look back at none."""
    return 1 + end / LONG_CONTEXT


@dataclass
class _Away:
    """A slot that decodes, between one of its passes and the next.

    Attributes:
        owner: whose.
        since: when its last pass ended.
        usual_s: how long it is away, as a rule.
    """

    owner: Hashable
    since: float = 0.0
    usual_s: float | None = None

    @property
    def until(self) -> float:
        """When it counts as one that decodes no more."""
        return self.since + max(AWAY_S, AWAY_TIMES * (self.usual_s or 0.0))

    def comes_back(self, now: float) -> None:
        """Its next position is there."""
        self.usual_s = _learnt(self.usual_s, now - self.since)


class Scheduler(Generic[_Step]):
    """The steps that wait.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._decoding = dict[int, _Step]()  # by slot, in the order in which they came
        self._chunks = dict[int, _Step]()  # likewise
        self._done = dict[int, int]()  # positions of a chunk that are computed, by slot
        self._chunk_is_next = False
        self._expected = dict[int, float]()  # slot: until when its next position is worth waiting for
        self._at_work = dict[int, tuple[Hashable, float]]()  # slot: whose, and until when it counts as at work
        self._away = dict[int, _Away]()  # slots that decode
        self.usage, self.costs = DecayingUsage(clock), Costs()

    def __len__(self) -> int:
        return len(self._decoding) + len(self._chunks)

    def add(self, step: _Step) -> None:
        """Another step that waits; its session has no other."""
        self._expected.pop(step.slot, None)
        if step.is_decoding and step.slot in self._away:
            self._away[step.slot].comes_back(self._clock())
        (self._decoding if step.is_decoding else self._chunks)[step.slot] = step

    def drop(self, slot: int) -> list[_Step]:
        """Take out what waits for a slot: its session has ended."""
        self._expected.pop(slot, None)
        self._at_work.pop(slot, None)
        self._away.pop(slot, None)
        return self.cancel(slot)

    def cancel(self, slot: int) -> list[_Step]:
        """Take out what waits for a slot; its session goes on."""
        self._done.pop(slot, None)
        return [step for waiting in (self._decoding, self._chunks) if (step := waiting.pop(slot, None)) is not None]

    def next(self) -> Batch[_Step] | None:
        """What is to be computed now; nothing while it is worth waiting (:meth:`wait_s`).

        Of a chunk the rest stays here until :meth:`complete` says that its last part is done.
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
        """Seconds until :meth:`next` may have something that it has not now."""
        if self._chunks and not self._decoding:
            return min(self._over_its_part_s(step.owner) for step in self._chunks.values())
        return self._gathering_s()

    def complete(self, batch: Batch[_Step], seconds: float, sampling_s: float = 0.0) -> bool:
        """A pass took ``seconds``, ``sampling_s`` of them to draw ids; True where it ends its steps."""
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
        """A pass was not computed, and its steps are answered: nothing is learnt from it."""
        for step in batch.steps:
            self.cancel(step.slot)

    # ---- inside

    def _gathering_s(self) -> float:
        """Seconds for which it is worth waiting for sessions that are about to come back."""
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
        """Seconds for which others still count as decoding; infinity while one of them waits for a pass."""
        if any(step.owner != owner for step in self._decoding.values()):
            return math.inf
        now = self._clock()
        return max((away.until - now for away in self._away.values() if away.owner != owner), default=0.0)

    def _over_its_part_s(self, owner: Hashable) -> float:
        """Seconds until an owner has had no more than its part of what chunks get, or nobody else decodes; or 0."""
        decode_s = self._others_decode_s(owner)
        if decode_s <= 0:
            return 0.0
        part, used = self._part(owner), self.usage.of(owner)
        return min(decode_s, self.usage.window_s * math.log(used / part)) if used > part else 0.0

    def _part(self, owner: Hashable) -> float:
        """Seconds of the window that an owner's chunks may take while others decode: those count as one more owner."""
        owners = len({step.owner for step in self._chunks.values()} | {owner})
        return min(CHUNKS_SHARE, 1 / (owners + 1)) * self.usage.window_s

    def _chunk(self) -> Batch[_Step] | None:
        """A part of the chunk whose owner has used least, or of the first of them; None while all have to wait."""
        step = min(self._chunks.values(), key=lambda step: self.usage.of(step.owner))
        if self._over_its_part_s(step.owner) > 0:
            return None
        start, positions = self._done.get(step.slot, 0), step.length
        if self.costs.decoding_s is not None and self._others_at_work(step.owner):
            positions = start + self.costs.positions_within(PART_PASSES * self.costs.decoding_s, step, start)
        return Batch([step], start, positions)

    def _decode_batch(self) -> list[_Step]:
        """Decoding steps that may share a pass: the one that has waited longest is among them."""
        together = list[_Step]()
        for step in self._decoding.values():
            batch = [*together, step]
            slots = [each.slot for each in batch]
            read = (max(slots) - min(slots) + 1) * max(each.end for each in batch)
            if not together or read <= WASTE * sum(each.end for each in batch) + FREE_WASTE:
                together = batch
        return together
