"""Runs prompts, one at a time, in a thread of its own: OpenMP keeps a team of threads per calling thread.

A run that is stopped does not wait for this thread, whatever that waits for: the run is over at once, and the worker
finds out. But a run that the cloud is being asked to finish can no longer be called stopped.

Knows: the pipeline and its events. Does not know: HTTP, consents.
"""

from __future__ import annotations

import queue
import threading
import time

from llama.client.link import Stopped
from llama.edge.generation import MAY_BE_HANDED_ON
from llama.edge.pipeline import (
    CloudMet,
    Notice,
    Preview,
    ReplyComplete,
    ReplyText,
    RoundTripDone,
    RunEvent,
    RunPipeline,
)
from llama.edge.web import page_json
from llama.edge.web.cloud_health import CloudHealthPoller
from llama.edge.web.event_stream import Ending
from llama.edge.web.page_run import CurrentRun, PageRun
from llama.errors import CloudUnreachable, RequestUnanswered, SplitLlamaError
from llama.text.printable import printable

FINISH_GRACE_S = 0.3  # after a stop, for a cloud that is just saying that the reply is finished


class RunWorker:
    """Runs what it is given, in order.

    Args:
        pipeline: does the work.
        current: where each run's progress is kept.
        health: takes reports of what a run finds out about the cloud.
        ending: of the program.
    """

    def __init__(self, pipeline: RunPipeline, current: CurrentRun, health: CloudHealthPoller, ending: Ending) -> None:
        self.pipeline, self.current, self.health, self.ending = pipeline, current, health, ending
        self._jobs: queue.SimpleQueue[tuple[PageRun, Preview] | None] = queue.SimpleQueue()
        # A daemon: no cloud, and no half that is being loaded, keeps the program from ending.
        self._thread = threading.Thread(target=self._work, name="run worker", daemon=True)

    def start(self) -> None:
        """Begin to wait for runs."""
        self._thread.start()

    def submit(self, run: PageRun, preview: Preview) -> None:
        """Have a run run after those before it."""
        self._jobs.put((run, preview))

    def close(self, within_s: float) -> bool:
        """Take no more runs, and wait for the end of the thread; tell whether it has ended."""
        self._jobs.put(None)
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._run(*job)

    def _run(self, run: PageRun, preview: Preview) -> None:
        try:
            self._check(run)
            with self.ending.under_the_ceiling():
                result = self.pipeline.run(
                    preview,
                    _Recorder(self, run, len(preview.prepared.outgoing.ids)),
                    lambda: self._check(run),
                    timed=True,
                )
            self.current.end(run, "done", done=page_json.done(result))
        except Stopped:
            if run.finishing:
                self._fail(run, f"stopped before the cloud had said that it is finished; {MAY_BE_HANDED_ON}")
            else:
                self.current.end(run, "stopped")
        except SplitLlamaError as err:
            if isinstance(err, CloudUnreachable) and not isinstance(err, RequestUnanswered):
                self.health.report("away", str(err))
            self._fail(run, str(err))
        except Exception as err:  # it must be said, or the page would wait for ever; what err says may be personal
            self._fail(run, f"the program failed ({type(err).__name__}); what it had sent was as you saw it")

    def _check(self, run: PageRun) -> None:
        """Raise ``Stopped`` where the run is stopped, or the program is to end."""
        if run.stopped_at is None and self.ending.events.ended:
            run.stopped_at = time.monotonic()
        if run.stopped_at is None or (run.finishing and time.monotonic() - run.stopped_at < FINISH_GRACE_S):
            return
        raise Stopped

    def _fail(self, run: PageRun, error: str) -> None:
        self.current.end(run, "failed", error=printable(error))


class _Recorder:
    """Keeps the events of one run."""

    def __init__(self, worker: RunWorker, run: PageRun, prompt_tokens: int) -> None:
        self.device, self.current, self.health = worker.pipeline.device, worker.current, worker.health
        self.run, self.prompt_tokens = run, prompt_tokens
        self.iterations: page_json.Iterations | None = None

    def __call__(self, event: RunEvent) -> None:
        match event:
            case Notice():
                self._notice(event)
            case CloudMet(welcome=welcome):
                self.health.report_here()
                self.iterations = page_json.Iterations(self.device, welcome, self.prompt_tokens)
            case ReplyText(text=text):
                self.current.add_text(self.run, text)
            case RoundTripDone(trip=trip):
                assert self.iterations is not None, "the cloud was met"
                iteration, prefill = self.iterations.iteration(trip), self.iterations.prefill(trip)
                self.health.report_here()
                self.current.add_step(self.run, iteration, prefill)
            case ReplyComplete():
                self.current.begin_finishing(self.run)

    def _notice(self, notice: Notice) -> None:
        if self.run.is_over:
            return
        if notice.silent:
            self.health.report("away", notice.text)
        else:
            self.health.report_here()
            self.health.events.add("notice", text=printable(notice.text))
