"""The messages between the cloud's threads: jobs for the model, jobs for the background, and their results.

Knows: sessions, requests, tensors. Does not know: sockets, threads.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

from llama.cloud.control import ControlRequest
from llama.cloud.run_finisher import FinishedRun
from llama.cloud.sessions import Session
from llama.cloud.wakeup import WakeupSender
from llama.wire import Refused, Reply, Stages, Step


@dataclass(frozen=True)
class StepJob:
    """A Step to be computed.

    Attributes:
        session: the step's session.
        step: the request.
        hidden: its hidden states ``(T, dim)``, on the CPU.
        arrived: when it arrived, in monotonic seconds.
        repeated: share of its positions, 0 to 1, that the session has computed before.
    """

    session: Session
    step: Step
    hidden: torch.Tensor
    arrived: float
    repeated: float

    @property
    def slot(self) -> int:
        """The session's slot of the KV cache."""
        return self.session.slot

    @property
    def owner(self) -> str | bytes:
        """Public key of the session's owner; without keys the session's id, so that each session is its own owner."""
        return self.session.owner or self.session.id

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.step.rows

    @property
    def end(self) -> int:
        """Position after the step's last one."""
        return self.step.position + self.step.rows

    @property
    def sampled(self) -> int:
        """Number of positions, at its end, whose next id is drawn at random."""
        return self.step.want if self.session.sampling.temperature > 0 else 0

    @property
    def is_decoding(self) -> bool:
        """True for a step of one position whose next id is wanted."""
        return self.step.rows == self.step.want == 1

    def first_wanted(self, start: int = 0) -> int:
        """Return the first of its positions, counted from 0 and not before ``start``, whose next id is wanted."""
        return max(start, self.step.rows - self.step.want)


@dataclass(frozen=True)
class ClearSlot:
    """A job that zeroes positions ``0 … end-1`` of an ended session's slot. The slot is free only after that."""

    slot: int
    end: int


@dataclass(frozen=True)
class FillSlot:
    """A job that copies an entry of the prefix cache to the beginning of a slot."""

    slot: int
    prefix: int


@dataclass(frozen=True)
class FinishJob:
    """A job that turns a finished run into text and processes it."""

    session: Session
    run: FinishedRun


@dataclass(frozen=True)
class ControlJob:
    """A control request to answer. ``owner`` is the key of ``peer``."""

    peer: bytes
    owner: str
    request: ControlRequest


@dataclass(frozen=True)
class Sampled:
    """Result of a step, or of a part of a chunk."""

    ids: list[int]
    stages: Stages | None

    def then(self, later: Sampled) -> Sampled:
        """Join this part's result and the result of the part after it."""
        return Sampled([*self.ids, *later.ids], _added(self.stages, later.stages))


@dataclass(frozen=True)
class StepDone:
    """A step and its result."""

    job: StepJob
    result: Sampled | Refused


@dataclass(frozen=True)
class SlotCleared:
    """A slot that has been cleared and is free again."""

    slot: int


@dataclass(frozen=True)
class BackgroundDone:
    """A background job, its reply, and the seconds of work that its peer is charged for."""

    job: FinishJob | ControlJob
    reply: Reply
    seconds: float


ModelJob = StepJob | ClearSlot | FillSlot
BackgroundJob = FinishJob | ControlJob
Done = StepDone | SlotCleared | BackgroundDone


class ResultQueue:
    """Results of the model worker and the background executor, for the I/O thread to send."""

    def __init__(self) -> None:
        self._done = deque[Done]()

    def __len__(self) -> int:
        return len(self._done)

    def put(self, done: Done, wakeup: WakeupSender) -> None:
        """Add a result and wake the I/O thread. ``wakeup`` must belong to the calling thread."""
        self._done.append(done)
        wakeup.send()

    def put_all(self, done: list[StepDone], wakeup: WakeupSender) -> None:
        """Add several results and wake the I/O thread once."""
        self._done.extend(done)
        wakeup.send()

    def take(self) -> Done | None:
        """Remove the oldest result and return it, or None if there is none."""
        return self._done.popleft() if self._done else None


def _added(one: Stages | None, other: Stages | None) -> Stages | None:
    """Add the times of two parts of a step. Its time in the queue is that of the first part."""
    if one is None or other is None:
        return None
    layers = tuple(map(sum, zip(one.layers_us, other.layers_us, strict=True)))
    return Stages(one.queue_us, layers, one.head_us + other.head_us, one.sample_us + other.sample_us)
