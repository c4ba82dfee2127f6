"""What the cloud counts for its provider, as Prometheus metrics: sums over everybody, and of nobody in particular.

No label holds anything that a peer chose: each has a fixed set of values, all of which are there from the start.

Times of a decoding step, which together are the time from one token of a session to its next: *away*, from the handing
out of one reply until the session's next row has arrived, which is the device, the network both ways and whatever was
lost there, since the cloud cannot tell them apart; *queue*, from then until its pass begins; *compute*, the pass. (What
is missing is the moment between the end of the pass and the handing out.)

Knows: numbers. Does not know: sockets, who asks, what is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from llama.cloud.sessions import Ending, Sessions
from llama.wire import ErrorCode

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody looks at

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = tuple(float(1 << i) for i in range(9))


class Metrics:
    """All of them, in a registry of their own; any thread may count, and any may read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.received = self._counter("received_bytes", "Bytes of requests, without what ZeroMQ adds.")
        self.sent = self._counter("sent_bytes", "Bytes of replies, without what ZeroMQ adds.")
        self.tokens = self._counter("tokens", "Token ids chosen and handed out; a repeated answer counts once.")
        self.prompt_rows = self._counter("prompt_rows", "Rows of prompts computed; a prefix that was there is not.")
        self.opened = self._counter("sessions_opened", "Sessions opened.")
        self._refusals = self._counter(
            "refusals", "Requests refused; not counted: telling those in line that they still wait.", "code"
        )
        self._endings = self._counter("sessions_ended", "Sessions ended, by why.", "why")
        self.refused = {code: self._refusals.labels(code.value) for code in ErrorCode}
        self.ended = {why: self._endings.labels(why.value) for why in Ending}
        self.away = self._seconds("away", "from a reply until the session's next row: device and network")
        self.queue = self._seconds("queue", "from its row's arrival until its pass begins")
        self.compute = self._seconds("compute", "its pass, with the others in it")
        self.batch = Histogram(
            "split_llama_decode_batch_rows", "Rows that share a decoding pass.", buckets=_ROWS, registry=self.registry
        )

    def watch(self, sessions: Sessions, positions: int, cache_bytes: int) -> None:
        """From now on also show how full the cloud is, as it is when somebody looks; once only.

        Args:
            sessions: who is there.
            positions: of a session, at most.
            cache_bytes: of keys and values, on this rank.
        """
        for name, about, value in (
            ("sessions_open", "Sessions that are open.", lambda: len(sessions)),
            ("sessions_waiting", "Opens that wait in line.", lambda: len(sessions.line)),
            ("places", "Sessions that there is room for.", lambda: sessions.slots),
            ("cache_positions", "Positions that the cache has.", lambda: sessions.slots * positions),
            ("cache_filled_positions", "Positions that open sessions have filled.", sessions.filled),
            ("cache_bytes", "Bytes allocated for keys and values, on the first rank.", lambda: cache_bytes),
        ):
            Gauge(f"split_llama_{name}", about, registry=self.registry).set_function(value)

    def decoded(self, waited_s: Sequence[float], seconds: float) -> None:
        """A decoding pass of ``seconds``, and how long each of its steps has waited for it."""
        self.batch.observe(len(waited_s))
        for waited in waited_s:
            self.queue.observe(waited)
            self.compute.observe(seconds)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"split_llama_{name}", about, labels, registry=self.registry)

    def _seconds(self, part: str, about: str) -> Histogram:
        return Histogram(
            f"split_llama_decode_{part}_seconds", f"Of a decoding step: {about}.", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
