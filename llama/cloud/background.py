"""The background executor: a thread for work that may wait for a disk, which is finished runs and control requests.

Finished runs come first, since a person waits for each of them. But at most ``FINISHED_FIRST`` of them overtake a
control request. The number of waiting control requests is limited. The number of waiting finished runs cannot exceed
the number of slots.

Knows: threads, jobs, the clock. Does not know: sockets, the content of jobs.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from llama.cloud.control import ControlRequest
from llama.cloud.jobs import BackgroundDone, BackgroundJob, ControlJob, FinishJob, ResultQueue
from llama.cloud.run_finisher import FinishedRun
from llama.cloud.sessions import unknown_session
from llama.cloud.wakeup import WakeupSender
from llama.wire import ErrorCode, Final, Refused, Reply

MAX_CONTROL_REQUESTS, MAX_CONTROL_REQUESTS_EACH = 256, 16  # waiting ones: of all keys, and of one key
FINISHED_FIRST = 32  # finished runs that may overtake a control request
MOST_WAITING_CHARGED_S = 0.1  # maximum wait of a job that its peer is charged for: a slow disk is not the peer's fault


class Services(Protocol):
    """The work that runs in the background."""

    def finish(self, run: FinishedRun) -> Final:
        """Finish a run."""

    def answer(self, request: ControlRequest, owner: str) -> Reply:
        """Answer a control request that came with a key; empty without keys."""


class BackgroundExecutor:
    """A thread that runs background jobs, and its queue.

    Args:
        services: does the work; only that thread uses it.
        results: queue for the replies.
        wakeup: wakes the thread that takes them.
        failed: logs a fault of the cloud, and returns the refusal that the peer gets for it.
    """

    def __init__(
        self, services: Services, results: ResultQueue, wakeup: WakeupSender, failed: Callable[[Exception], Refused]
    ) -> None:
        self._services, self._results, self._wakeup, self._failed = services, results, wakeup, failed
        # Ordered by turn, then by order of submission. None is the end.
        self._jobs: queue.PriorityQueue[tuple[float, int, BackgroundJob | None]] = queue.PriorityQueue()
        self._submitted = 0
        self._control = dict[bytes, str]()  # peers with an unanswered control request, and their keys
        self._thread = threading.Thread(target=self._run, name="background")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the submitted jobs, then end the thread. Submit no more jobs after this."""
        if self._thread.ident is not None:  # else it was never started
            self._put(math.inf, None)
            self._thread.join()
        self._wakeup.close()

    # ---- called by the I/O thread

    @property
    def control_requests(self) -> int:
        """Number of control requests that wait or are being answered."""
        return len(self._control)

    def submit(self, job: BackgroundJob) -> None:
        """Queue a job.

        Raises:
            Refused: ``busy``: too many control requests wait in total, or of this key, or this peer has one already.
        """
        if isinstance(job, FinishJob):
            self._put(0, job)
            return
        of_this_key = sum(owner == job.owner for owner in self._control.values()) if job.owner else 0
        too_many = len(self._control) >= MAX_CONTROL_REQUESTS or of_this_key >= MAX_CONTROL_REQUESTS_EACH
        if too_many or job.peer in self._control:
            raise Refused(ErrorCode.BUSY, "too many requests at once", "try again later", 1.0)
        self._control[job.peer] = job.owner
        self._put(FINISHED_FIRST, job)

    def note_reply(self, job: BackgroundJob) -> None:
        """Note that a job's reply is on its way."""
        if isinstance(job, ControlJob):
            self._control.pop(job.peer, None)

    def _put(self, after: float, job: BackgroundJob | None) -> None:
        self._submitted += 1
        self._jobs.put((self._submitted + after, self._submitted, job))

    # ---- the thread

    def _run(self) -> None:
        while (job := self._jobs.get()[-1]) is not None:
            began, working = time.monotonic(), time.thread_time()
            reply = self._reply(job)
            working = time.thread_time() - working
            waiting = min(MOST_WAITING_CHARGED_S, time.monotonic() - began - working)
            self._results.put(BackgroundDone(job, reply, working + max(0.0, waiting)), self._wakeup)

    def _reply(self, job: BackgroundJob) -> Reply:
        try:
            if isinstance(job, ControlJob):
                return self._services.answer(job.request, job.owner)
            if job.session.closing:
                raise unknown_session()  # the session has ended in the meantime: do not finish its run
            return self._services.finish(job.run)
        except Refused as refusal:
            return refusal.error
        except Exception as err:  # a fault of the cloud
            return self._failed(err).error
