"""What the cloud's threads hand each other: jobs for the model, jobs for the background, and what came of them.

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
        session: whose.
        step: the request.
        hidden: its hidden states ``(T, dim)``, on the CPU.
        arrived: monotonic seconds.
        repeated: part of its positions, 0 to 1, that the session has computed before.
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
        """Whose it is; without keys each session is an owner of its own."""
        return self.session.owner or self.session.id

    @property
    def length(self) -> int:
        """How many positions it has."""
        return self.step.rows

    @property
    def end(self) -> int:
        """One past its last position."""
        return self.step.position + self.step.rows

    @property
    def sampled(self) -> int:
        """How many of its last positions have their next id drawn by chance."""
        return self.step.want if self.session.sampling.temperature > 0 else 0

    @property
    def is_decoding(self) -> bool:
        """One position, whose next id is wanted."""
        return self.step.rows == self.step.want == 1

    def first_wanted(self, start: int = 0) -> int:
        """The first of its positions, counted from 0 and from ``start`` on, whose next id is wanted."""
        return max(start, self.step.rows - self.step.want)


@dataclass(frozen=True)
class ClearSlot:
    """A session has ended: zero its positions ``0 … end-1``; the slot is free only then."""

    slot: int
    end: int


@dataclass(frozen=True)
class FillSlot:
    """Begin a slot with an entry of the prefix cache."""

    slot: int
    prefix: int


@dataclass(frozen=True)
class FinishJob:
    """A run to be finished."""

    session: Session
    run: FinishedRun


@dataclass(frozen=True)
class ControlJob:
    """A control request to be answered; ``owner`` is the key of ``peer``."""

    peer: bytes
    owner: str
    request: ControlRequest


@dataclass(frozen=True)
class Sampled:
    """What came of a step, or of the part of it that was computed last."""

    ids: list[int]
    stages: Stages | None

    def then(self, later: Sampled) -> Sampled:
        """Join this part and the one after it."""
        return Sampled([*self.ids, *later.ids], _added(self.stages, later.stages))


@dataclass(frozen=True)
class StepDone:
    """A step and what came of it."""

    job: StepJob
    result: Sampled | Refused


@dataclass(frozen=True)
class SlotCleared:
    """A slot is free again."""

    slot: int


@dataclass(frozen=True)
class BackgroundDone:
    """A background job, its reply, and the seconds that it is charged with."""

    job: FinishJob | ControlJob
    reply: Reply
    seconds: float


ModelJob = StepJob | ClearSlot | FillSlot
BackgroundJob = FinishJob | ControlJob
Done = StepDone | SlotCleared | BackgroundDone


class ResultQueue:
    """What the model worker and the background executor have done, for the I/O thread to hand on."""

    def __init__(self) -> None:
        self._done = deque[Done]()

    def __len__(self) -> int:
        return len(self._done)

    def put(self, done: Done, wakeup: WakeupSender) -> None:
        """Add a result, and wake the I/O thread; ``wakeup`` is the calling thread's own."""
        self._done.append(done)
        wakeup.send()

    def put_all(self, done: list[StepDone], wakeup: WakeupSender) -> None:
        """Add several, and wake the I/O thread once."""
        self._done.extend(done)
        wakeup.send()

    def take(self) -> Done | None:
        """Take out the oldest, if there is one."""
        return self._done.popleft() if self._done else None


def _added(one: Stages | None, other: Stages | None) -> Stages | None:
    """Add the times of two parts of a step, which waited only before the first."""
    if one is None or other is None:
        return None
    layers = tuple(map(sum, zip(one.layers_us, other.layers_us, strict=True)))
    return Stages(one.queue_us, layers, one.head_us + other.head_us, one.sample_us + other.sample_us)
