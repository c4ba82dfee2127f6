"""The cloud's Prometheus metrics: sums over all devices, never about one of them.

No label holds anything that a peer chose. Each label has a fixed set of values, and all of them exist from the start.

A decoding step has three times. Together they are the time from one token of a session to its next:

- *away*: from sending a reply until the session's next step arrives. It covers the device, the network both ways and
  messages lost there, because the cloud cannot tell them apart.
- *queue*: from that arrival until the step's batch begins.
- *compute*: the batch.

The moment between the end of the batch and sending the reply is not covered.

All metrics are those of ``prometheus_client``, which are safe to use from any thread.

Knows: numbers. Does not know: sockets, peers, texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llama.cloud.sessions import EndReason, Sessions
from llama.wire import ErrorCode

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SIZES = tuple(float(1 << i) for i in range(9))

# Otherwise each metric has one more series, the time of its creation.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics, in a registry that holds no others.

    Attributes:
        started: monotonic seconds.
        registry: contains the metrics below and, after :meth:`watch`, the gauges.
        received, sent: bytes of requests and replies, without ZeroMQ's framing.
        tokens: ids chosen and sent; a repeated answer counts once.
        prompt_positions: computed positions of prompts.
        opened: opened sessions.
        ended: ended sessions, by reason.
        refused: refused requests, by code.
        away, queue, compute: seconds of decoding steps.
        batch: sizes of decoding batches.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.started, self.registry = clock(), CollectorRegistry()
        self.received = self._counter("received_bytes", "Bytes of requests, without ZeroMQ's framing.")
        self.sent = self._counter("sent_bytes", "Bytes of replies, without ZeroMQ's framing.")
        self.tokens = self._counter("tokens", "Token ids chosen and sent. A repeated answer counts once.")
        self.prompt_positions = self._counter("prompt_tokens", "Computed tokens of prompts.")
        self.opened = self._counter("sessions_opened", "Sessions opened.")
        ended = self._counter("sessions_ended", "Sessions ended, by reason.", "why")
        self.ended = {why: ended.labels(why.value) for why in EndReason}
        about = "Requests refused, by code, without the busy replies to sessions in the slot queue."
        refused = self._counter("refusals", about, "code")
        self.refused = {code: refused.labels(code.value) for code in ErrorCode}
        self.batch = self._histogram("batch_size", "Sessions that share a decoding step.", _SIZES)
        about = "Time from a reply until the session's next decoding step arrives: device and network."
        self.away = self._histogram("away_seconds", about, _SECONDS)
        about = "Time from a decoding step's arrival until its batch begins."
        self.queue = self._histogram("queue_seconds", about, _SECONDS)
        about = "Time of a decoding step's batch, which it shares with other sessions."
        self.compute = self._histogram("compute_seconds", about, _SECONDS)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(name, about, labels, namespace="split_llama", registry=self.registry)

    def _histogram(self, name: str, about: str, bounds: Sequence[float]) -> Histogram:
        return Histogram(f"split_llama_decode_{name}", about, buckets=bounds, registry=self.registry)

    def watch(self, sessions: Sessions, positions: int, cache_bytes: int) -> None:
        """Add gauges of the cloud's load, read at each scrape.

        Args:
            sessions: the open and waiting sessions.
            positions: maximum positions of a session.
            cache_bytes: bytes of keys and values, on this rank.
        """
        self.registry.register(_Levels(sessions, positions, cache_bytes))

    def decoded(self, waited_s: Sequence[float], seconds: float) -> None:
        """Count a decoding batch that took ``seconds``, with the seconds that each of its steps waited for it."""
        self.batch.observe(len(waited_s))
        for waited in waited_s:
            self.queue.observe(waited)
            self.compute.observe(seconds)


class _Levels(Collector):
    """The gauges of :meth:`Metrics.watch`."""

    def __init__(self, sessions: Sessions, positions: int, cache_bytes: int) -> None:
        self._sessions, self._positions, self._cache_bytes = sessions, positions, cache_bytes

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges' present values."""
        sessions = self._sessions
        for name, about, level in (
            ("sessions_open", "Open sessions.", len(sessions)),
            ("sessions_waiting", "Sessions in the slot queue.", len(sessions.queue)),
            ("slots", "Slots of the KV cache, one for each open session.", sessions.slots),
            ("cache_positions", "Positions of the KV cache.", sessions.slots * self._positions),
            ("cache_filled_positions", "Positions filled by open sessions.", sessions.filled()),
            ("cache_bytes", "Bytes allocated for keys and values, on the first rank.", self._cache_bytes),
        ):
            yield GaugeMetricFamily(f"split_llama_{name}", about, value=level)


def total(counters: Iterable[Counter]) -> int:
    """Return the sum of the counters' present values."""
    samples = (sample for counter in counters for metric in counter.collect() for sample in metric.samples)
    return int(sum(sample.value for sample in samples))
