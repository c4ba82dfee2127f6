"""The thread that runs prompts, one at a time. All runs share it, because OpenMP keeps a team of threads per caller.

Stopping a run does not wait for this thread: the run ends at once, and the worker notices later. A run that the cloud
is finishing can no longer count as stopped.

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

FINISH_GRACE_S = 0.3  # after a stop, for the cloud's Final that may be on its way


class RunWorker:
    """Worker that runs submitted prompts in order.

    Args:
        pipeline: runs the prompts.
        current: keeps each run's progress.
        health: gets a run's reports about the cloud.
        ending: the end of the program.
    """

    def __init__(self, pipeline: RunPipeline, current: CurrentRun, health: CloudHealthPoller, ending: Ending) -> None:
        self.pipeline, self.current, self.health, self.ending = pipeline, current, health, ending
        self._jobs: queue.SimpleQueue[tuple[PageRun, Preview] | None] = queue.SimpleQueue()
        # A daemon thread, so that a slow cloud or the loading of a half cannot keep the program from ending.
        self._thread = threading.Thread(target=self._work, name="run worker", daemon=True)

    def start(self) -> None:
        """Start waiting for runs."""
        self._thread.start()

    def submit(self, run: PageRun, preview: Preview) -> None:
        """Queue a run behind the earlier ones."""
        self._jobs.put((run, preview))

    def close(self, within_s: float) -> bool:
        """Take no more runs and wait for the thread. Return whether it has ended."""
        self._jobs.put(None)
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._run(*job)
            self.current.events.add("history")

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
                self._fail(run, f"stopped before the cloud confirmed the end; {MAY_BE_HANDED_ON}")
            else:
                self.current.end(run, "stopped")
        except SplitLlamaError as err:
            if isinstance(err, CloudUnreachable) and not isinstance(err, RequestUnanswered):
                self.health.report("away", str(err))
            self._fail(run, str(err))
        except Exception as err:  # report it, or the page would wait for ever; the message may be personal
            self._fail(run, f"the program failed ({type(err).__name__}); it sent only the prompt that you saw")

    def _check(self, run: PageRun) -> None:
        """Raise ``Stopped`` if the run is stopped or the program is ending."""
        if run.stopped_at is None and self.ending.events.ended:
            run.stopped_at = time.monotonic()
        if run.stopped_at is None or (run.finishing and time.monotonic() - run.stopped_at < FINISH_GRACE_S):
            return
        raise Stopped

    def _fail(self, run: PageRun, error: str) -> None:
        self.current.end(run, "failed", error=printable(error))


class _Recorder:
    """Handler of one run's events."""

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
                assert self.iterations is not None, "CloudMet comes before RoundTripDone"
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
