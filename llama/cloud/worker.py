"""The model worker: it takes jobs, schedules a batch, runs the model, and samples the next ids.

Call :meth:`Worker.run` from the thread that loaded the model. OpenMP keeps a team of threads per calling thread. With
more threads than cores, it puts them to sleep after every operation.

Knows: jobs, the scheduler, the model runner, logits. Does not know: sockets, requests, text.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Mapping

import msgspec
import torch

from llama.cloud.jobs import ClearSlot, FillSlot, ModelJob, ResultQueue, Sampled, SlotCleared, StepDone, StepJob
from llama.cloud.metrics import Metrics
from llama.cloud.model_runner import ModelRunner
from llama.cloud.scheduler import Batch, Scheduler
from llama.cloud.sessions import unknown_session
from llama.cloud.wakeup import WakeupSender
from llama.device import is_out_of_memory
from llama.sampler import sample
from llama.stages import StageClock
from llama.wire import ErrorCode, Refused, Stages

POLL_S = 0.2  # maximum time until a signal is noticed
HEARTBEAT_S = 20.0  # time between two heartbeats to the other ranks while there is nothing to compute

_LOGITS_NOT_FINITE = Refused(
    ErrorCode.NOT_FINITE,
    "the logits contain NaN or infinity",
    "float16 overflows with some checkpoints; use bfloat16 or float32",
)
_NOT_FINITE = Refused(
    ErrorCode.NOT_FINITE, "the rows contain NaN or infinity", "the device's half is damaged; copy it again"
)
_OUT_OF_MEMORY = Refused(ErrorCode.INTERNAL, "the cloud ran out of memory in this step", "send smaller chunks")


class Worker:
    """Worker that computes all steps of one cloud, in the thread that calls :meth:`run`.

    Args:
        runner: the model on all ranks.
        jobs: queue of jobs; other threads fill it.
        results: queue for the results.
        wakeup: wakes the thread that takes the results.
        n_words: number of the tokenizer's ids. No other id is sampled, though some checkpoints have logits for more.
        metrics: records batches.
        clock: monotonic seconds.

    Attributes:
        seen: when the worker was last between two batches.
    """

    def __init__(
        self,
        runner: ModelRunner,
        jobs: queue.SimpleQueue[ModelJob],
        results: ResultQueue,
        wakeup: WakeupSender,
        n_words: int,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._runner, self._jobs, self._results, self._wakeup = runner, jobs, results, wakeup
        self._n_words, self._metrics, self._clock = n_words, metrics, clock
        self._scheduler = Scheduler[StepJob](clock)
        self._begun = dict[int, Sampled]()  # results of the computed parts of unfinished chunks, by slot
        self.seen = self._ranks_signalled = clock()

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until ``stopping()``. Then finish the current batch and shut down the other ranks.

        Raises:
            RuntimeError: a step failed and left the ranks out of step.
        """
        while not stopping():
            self.seen = self._clock()
            self.step()
        self._runner.shut_down()

    def step(self) -> None:
        """Take jobs, schedule a batch, run it, and hand on its results."""
        written = self._take_jobs()
        batch = self._scheduler.next()
        if batch is not None:
            started = self._clock()
            results, sampling_s = self._compute(batch)
            self._hand_on(batch, results, started, sampling_s)
        elif not written and self._clock() - self._ranks_signalled > HEARTBEAT_S:
            self._runner.heartbeat()
        elif not written:
            return
        self._ranks_signalled = self._clock()

    def _take_jobs(self) -> bool:
        """Take the jobs that have arrived. With nothing to compute, wait for one first.

        Returns True if a slot was cleared or filled.
        """
        written = False
        try:
            # If steps wait, wait only while the scheduler expects others to join, or holds the owner back.
            wait_s = min(POLL_S, self._scheduler.wait_s()) if len(self._scheduler) else POLL_S
            job = self._jobs.get(timeout=wait_s)
            while True:
                if isinstance(job, StepJob):
                    self._scheduler.add(job)
                else:
                    self._write_slot(job)
                    written = True
                job = self._jobs.get_nowait()
        except queue.Empty:
            return written

    def _write_slot(self, job: ClearSlot | FillSlot) -> None:
        if isinstance(job, FillSlot):
            self._runner.fill(job.slot, job.prefix)
            return
        for step in self._scheduler.drop(job.slot):
            self._results.put(StepDone(step, unknown_session()), self._wakeup)
        self._begun.pop(job.slot, None)
        self._runner.clear(job.slot, job.end)
        self._results.put(SlotCleared(job.slot), self._wakeup)

    def _hand_on(
        self, batch: Batch[StepJob], results: list[Sampled | Refused], started: float, sampling_s: float
    ) -> None:
        """Hand on the results of a batch. Keep the results of a chunk's parts until its last part is done."""
        seconds, is_last = self._clock() - started, True
        if any(isinstance(result, Sampled) for result in results):
            is_last = self._scheduler.complete(batch, seconds, sampling_s)
        else:
            self._scheduler.fail(batch)
        if batch.is_decoding:
            self._metrics.decoded([started - job.arrived for job in batch.steps], seconds)
        else:
            (job,), (result,) = batch.steps, results
            before = self._begun.pop(job.slot, None)
            if isinstance(result, Sampled):
                result = result if before is None else before.then(result)
                if not is_last:
                    self._begun[job.slot] = result
                    return
            results = [result]
        self._results.put_all(list(map(StepDone, batch.steps, results)), self._wakeup)

    # ---- the model, and the choice of ids

    @torch.inference_mode()
    def _compute(self, batch: Batch[StepJob]) -> tuple[list[Sampled | Refused], float]:
        """Run one batch. Return the result of each of its steps, and the seconds for the choice of ids.

        NaN or infinity in one step's hidden states affects the result of that step only.
        """
        jobs = batch.steps
        hidden = {job.slot: job.hidden[batch.start : batch.stop] for job in jobs}
        # A sum over NaN or infinity is NaN or infinity.
        good = [job for job in jobs if math.isfinite(hidden[job.slot].sum(dtype=torch.float32))]
        if not good:
            return [_NOT_FINITE] * len(jobs), 0.0
        began = self._clock()
        # A CUDA graph cannot be timed inside. One step that asks for times must not make the others run without it.
        timed = (all if self._runner.has_graphs else any)(job.step.times for job in good)
        stage_clock = StageClock(self._runner.device) if timed else None
        try:
            logits = self._logits(good, batch, hidden, stage_clock)
        except RuntimeError as err:
            if not is_out_of_memory(err) or not self._runner.alone:
                raise  # the other ranks are still inside the step that this rank has left
            return [_OUT_OF_MEMORY] * len(jobs), 0.0
        if stage_clock is not None:
            stage_clock.stop()
        sampling_began = self._clock()
        ids = dict(zip((job.slot for job in good), self._sample(good, logits, batch), strict=True))
        sampling_s = self._clock() - sampling_began
        stages = None if stage_clock is None else _stages(stage_clock)
        return [_result(job, ids.get(job.slot, _NOT_FINITE), stages, began) for job in jobs], sampling_s

    def _logits(
        self,
        jobs: list[StepJob],
        batch: Batch[StepJob],
        hidden: Mapping[int, torch.Tensor],
        stage_clock: StageClock | None,
    ) -> torch.Tensor:
        """Return the logits of the wanted positions of each step, ``(B, want, vocab)``."""
        if len(jobs) > 1:
            slots, positions = [job.slot for job in jobs], [job.step.position for job in jobs]
            of_all = torch.cat([hidden[slot] for slot in slots])
            return self._runner.decode(slots, positions, of_all, stage_clock)[:, None]
        (job,) = jobs
        want = max(0, batch.stop - job.first_wanted(batch.start))
        return self._runner.step(job.slot, job.step.position + batch.start, hidden[job.slot], want, stage_clock)[None]

    def _sample(self, jobs: list[StepJob], logits: torch.Tensor, batch: Batch[StepJob]) -> list[list[int] | Refused]:
        """Choose the next ids of each step from its logits ``(B, want, vocab)``."""
        words = logits[..., : self._n_words]
        # For all steps at once: each number that is copied from a GPU waits for it.
        finite = [math.isfinite(total) for total in logits.sum((-2, -1)).tolist()]
        likeliest = words.argmax(-1).tolist()
        chosen = list[list[int] | Refused]()
        for job, its_words, is_finite, ids in zip(jobs, words, finite, likeliest, strict=True):
            sampling, first = job.session.sampling, job.session.first_output(job.step)
            first += job.first_wanted(batch.start) - job.first_wanted()
            if not is_finite:
                chosen.append(_LOGITS_NOT_FINITE)
            elif sampling.temperature == 0:
                chosen.append(ids)
            else:
                chosen.append([sample(each, sampling, first + i) for i, each in enumerate(its_words)])
        return chosen


def _result(job: StepJob, ids: list[int] | Refused, stages: Stages | None, began: float) -> Sampled | Refused:
    """Return the result of one step, with its times if it asked for them."""
    if isinstance(ids, Refused):
        return ids
    if stages is None or not job.step.times:
        return Sampled(ids, None)
    return Sampled(ids, msgspec.structs.replace(stages, queue_us=round((began - job.arrived) * 1e6)))


def _stages(clock: StageClock) -> Stages:
    clock.stop()
    *layers, head, sampling = clock.stages_us()
    return Stages(0, tuple(layers), head, sampling)
