"""The cloud's server: it builds, starts and ends the cloud's threads.

    I/O thread         router ─► handler          reads, decides, answers; never computes, so that a handshake is
                          ▲         │ jobs        answered at once even while a long prompt is computed
                          │         ▼
    main thread        results ◄─ worker          owns the model; sessions that decode share its batches
                          ▲
    background thread     └────── background      work that may wait for a disk: finished runs, control requests

No message from a peer ends the loop. The handler answers an invalid request with a typed Error (``llama.wire``), and
the router drops a message without a request's envelope.

Knows: threads, and the parts that run in them. Does not know: the person, the content of prompts.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import zmq

from llama.addresses import Endpoint
from llama.cloud.auth import Authenticator, CloudKeys
from llama.cloud.background import BackgroundExecutor
from llama.cloud.event_log import EventLog
from llama.cloud.handler import Handler, failed
from llama.cloud.jobs import ModelJob, ResultQueue
from llama.cloud.lifecycle import SessionLifecycle
from llama.cloud.metrics import Metrics
from llama.cloud.model_runner import ModelRunner
from llama.cloud.prefix_cache import CachedPrefix
from llama.cloud.provider import ProviderServices
from llama.cloud.rate_limit import NO_LIMITS, RateLimiter, RateLimits
from llama.cloud.router import Router
from llama.cloud.sessions import Sessions
from llama.cloud.wakeup import Wakeup
from llama.cloud.worker import POLL_S, Worker
from llama.errors import SplitLlamaError
from llama.memory_ceiling import MemoryCeiling
from llama.tokenizer import Tokenizer
from llama.wire import DTYPE_BYTES, MAX_HEADER_BYTES, RequestDecoder, Welcome

STUCK_S = 60.0  # the worker or the I/O thread counts as stuck after this long without finishing a round of its loop


class Server:
    """Server of one model for many devices.

    Args:
        tokenizer: turns finished replies into text. The cloud samples and accepts only its ids, though some checkpoints
            have logits for more.
        welcome: the reply to a device's Hello. The server enforces its limits.
        slots: slots of the KV cache, which is the maximum number of sessions at a time.
        idle_timeout_s: seconds after which an unused session is closed.
        services: processes finished runs. By default it only turns them into text.
        most_waiting: maximum number of Opens in the slot queue.
        keys: the cloud's key pair and the allow list. Without them every client may connect, and traffic is not
            encrypted.
        limits: rate limits of one key, or without keys of one connection.
        event_log: logs sessions, as numbers, and refusals and faults.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        welcome: Welcome,
        *,
        slots: int,
        idle_timeout_s: float = 120.0,
        services: ProviderServices | None = None,
        most_waiting: int = 64,
        keys: CloudKeys | None = None,
        limits: RateLimits = NO_LIMITS,
        event_log: EventLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.event_log, self.metrics = event_log or EventLog(), Metrics(clock)
        self.tokenizer, self.welcome = tokenizer, welcome
        self.services = services or ProviderServices.of(tokenizer, event_log=self.event_log)
        per_owner = None if keys is None else keys.max_sessions
        self.sessions = Sessions(slots, idle_timeout_s, clock, most_waiting, per_owner=per_owner)
        self._clock = clock
        self._context = zmq.Context()
        self._jobs: queue.SimpleQueue[ModelJob] = queue.SimpleQueue()
        self.results, self._wakeup = ResultQueue(), Wakeup(self._context)
        self._worker_wakeup = self._wakeup.sender()
        self.background = BackgroundExecutor(
            self.services, self.results, self._wakeup.sender(), partial(failed, event_log=self.event_log)
        )
        decoder = RequestDecoder(welcome.max_seq_len)
        hidden_bytes = welcome.max_rows * welcome.dim * DTYPE_BYTES[welcome.dtype]
        largest_message = decoder.max_header_bytes + hidden_bytes
        limiter = RateLimiter(limits.bytes_s, limits.requests_s, largest_message, clock, share=limits.thread_share)
        authenticator = None if keys is None else Authenticator(keys, self._context)
        largest_frame = max(MAX_HEADER_BYTES, hidden_bytes)
        self.router = Router(self._context, authenticator, limiter, largest_frame, self.metrics, clock)
        self.router.watch(self._wakeup.socket)
        self.lifecycle = SessionLifecycle(
            welcome,
            tokenizer.n_words,
            self.sessions,
            listed=self.services.sheets.listed,
            send=self.router.send,
            submit_to_model=self._jobs.put,
            max_runs_s=limits.runs_s,
            metrics=self.metrics,
            event_log=self.event_log,
            clock=clock,
        )
        self.handler = Handler(
            welcome,
            decoder,
            self.lifecycle,
            peers=self.router,
            submit_to_model=self._jobs.put,
            background=self.background,
            limiter=limiter,
            keys=keys,
            metrics=self.metrics,
            event_log=self.event_log,
            clock=clock,
        )
        self._stopping = False
        self._stop_asked: Callable[[], bool] | None = None  # None until the server serves
        self._io_seen = 0.0  # when the I/O thread last began a round of its loop
        self._worker: Worker | None = None
        self._failure: Exception | None = None
        self._ceiling: MemoryCeiling | None = None

    @property
    def jobs_waiting(self) -> int:
        """Number of jobs that the worker has not taken yet."""
        return self._jobs.qsize()

    def bind(self, address: str, endpoints: Sequence[Endpoint] = ()) -> str:
        """Listen on an address; return the actual one. See :meth:`Router.bind`."""
        return self.router.bind(address, endpoints)

    def serve(
        self,
        runner: ModelRunner,
        stopping: Callable[[], bool],
        draining: Callable[[], bool] = lambda: False,
        drain_s: float = 20.0,
        prefixes: Mapping[bytes, CachedPrefix] | None = None,
        ceiling: MemoryCeiling | None = None,
    ) -> None:
        """Answer requests with the model of ``runner`` until ``stopping()``. Then finish the current batch and close.

        A session that names one of the ``prefixes``, which ``runner`` keeps, begins with it.

        Once ``draining()`` is true, the server opens no session. It stops when the open sessions have ended, or after
        ``drain_s`` seconds.

        The worker runs in the caller's thread.

        Raises:
            RuntimeError: a step failed and left the ranks out of step, or the I/O thread failed.
            MemoryCeilingReached: the process has more memory than ``ceiling`` allows.
        """
        self.lifecycle.draining, self.lifecycle.prefixes, self._ceiling = draining, prefixes or {}, ceiling
        worker = Worker(
            runner, self._jobs, self.results, self._worker_wakeup, self.tokenizer.n_words, self.metrics, self._clock
        )
        self._worker, self._stop_asked, self._io_seen = worker, stopping, self._clock()
        self.metrics.watch(self.sessions, self.welcome.max_seq_len, runner.cache.keys_values.nbytes)
        io_thread = threading.Thread(target=self._io_loop, name="io")
        until = _Until(stopping, draining, drain_s, self.sessions, self.event_log, self._clock)
        io_thread.start()
        self.background.start()
        try:
            worker.run(lambda: until() or self._failure is not None)
        finally:
            self.background.stop()
            self._stopping = True
            io_thread.join()
            self._worker_wakeup.close()
            self._context.term()
            self.event_log.info("stopped", sessions_cut_off=len(self.sessions))
            self.event_log.catch_up(at_once=True)
        if isinstance(self._failure, SplitLlamaError):
            raise self._failure
        if self._failure is not None:
            raise RuntimeError(f"serving failed: {self._failure}") from self._failure

    def close(self) -> None:
        """Close a server that has not served. After :meth:`serve` this does nothing."""
        if self._context.closed:
            return
        self.background.stop()
        self.router.close()
        self._wakeup.close()
        self._worker_wakeup.close()
        self._context.term()

    def health(self) -> str:
        """Return ``ok``, ``starting``, ``draining``, ``stopping``, or ``stuck``.

        ``stuck``: the worker or the I/O thread has not finished a round of its loop for ``STUCK_S``.
        """
        if self._stop_asked is None or self._worker is None:
            return "starting"
        if self._stopping or self._stop_asked():
            return "stopping"
        if self.lifecycle.draining():
            return "draining"
        return "stuck" if self._clock() - min(self._worker.seen, self._io_seen) > STUCK_S else "ok"

    def _io_loop(self) -> None:
        router, authenticator = self.router, self.router.authenticator
        try:
            while not self._stopping:
                self._io_seen = self._clock()
                if self._ceiling is not None:
                    self._ceiling.check()
                ready = router.poll(POLL_S)
                if self._wakeup.socket in ready:
                    self._wakeup.clear()
                    self._reply_to_results()
                if router.monitor in ready:
                    router.read_monitor()
                if authenticator is not None:
                    self._authenticate(authenticator)
                if router.socket in ready:
                    router.receive(self.handler)
                self.lifecycle.end_expired()
                self.lifecycle.admit()
                router.disconnect_silent()
                self.event_log.catch_up()
            self._reply_to_results()
        except Exception as err:
            self._failure = err
        finally:
            router.close()
            self._wakeup.close()

    def _reply_to_results(self) -> None:
        while (done := self.results.take()) is not None:
            self.handler.reply_to(done)

    def _authenticate(self, authenticator: Authenticator) -> None:
        """Let listed keys connect, and end the sessions of keys that were removed from the allow list."""
        if turned_away := authenticator.answer():
            self.event_log.info("turned_away", number=turned_away)
        changes = authenticator.changes()
        if changes is None:
            return
        for event, number in zip(("keys_listed", "keys_unlisted"), changes, strict=True):
            if number:
                self.event_log.info(event, number=number, listed=len(authenticator.keys.allowed))
        self.lifecycle.end_unlisted(authenticator.is_listed)


class _Until:
    """Stop condition of the worker: a stop was requested, or draining is complete."""

    def __init__(
        self,
        stopping: Callable[[], bool],
        draining: Callable[[], bool],
        drain_s: float,
        sessions: Sessions,
        event_log: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self._stopping, self._draining, self._drain_s = stopping, draining, drain_s
        self._sessions, self._event_log, self._clock = sessions, event_log, clock
        self._since: float | None = None

    def __call__(self) -> bool:
        if self._stopping():
            return True
        if not self._draining():
            return False
        if self._since is None:
            self._since = self._clock()
            self._event_log.info("draining", sessions=len(self._sessions))
        return not len(self._sessions) or self._clock() - self._since > self._drain_s
