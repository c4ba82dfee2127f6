"""What the cloud counts for its provider, as Prometheus metrics: sums over everybody, and of nobody in particular.

No label holds anything that a peer chose: each has a fixed set of values, all of which are there from the start.

Times of a decoding step, which together are the time from one token of a session to its next: *away*, from the handing
out of one reply until the session's next step has arrived, which is the device, the network both ways and whatever was
lost there, since the cloud cannot tell them apart; *queue*, from then until its batch begins; *compute*, the batch.
(What is missing is the moment between the end of the batch and the handing out.)

Counting is on the way of every token: plain numbers, each of which one thread only adds to. They become metrics when
somebody looks.

Knows: numbers. Does not know: sockets, who asks, what is said.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from llama.cloud.sessions import EndReason, Sessions
from llama.wire import ErrorCode

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SIZES = tuple(float(1 << i) for i in range(9))


class Histogram:
    """How many values there were up to each bound.

    Args:
        bounds: ascending; above the last there is one more, infinity.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float, times: int = 1) -> None:
        """A value that came so often."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def metric(self, name: str, about: str) -> HistogramMetricFamily:
        """As Prometheus has it: up to each bound all below it are counted, too."""
        named = [*map(str, self.bounds), "+Inf"]
        buckets = list(zip(named, map(float, accumulate(self.counts)), strict=True))
        return HistogramMetricFamily(name, about, buckets=buckets, sum_value=self.sum)


class Metrics(Collector):
    """All of them, and the registry in which they are, which is of their own.

    Attributes:
        started: monotonic seconds.
        received, sent: bytes of requests and replies, without what ZeroMQ adds.
        tokens: ids chosen and handed out; a repeated answer counts once.
        prompt_positions: positions of prompts that were computed.
        opened: sessions; ``ended``, those that have ended, by why.
        refused: requests, by code.
        away, queue, compute: seconds of decoding steps.
        batch: sizes of decoding batches.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.received = self.sent = self.tokens = self.prompt_positions = self.opened = 0
        self.started = clock()
        self.refused, self.ended = dict.fromkeys(ErrorCode, 0), dict.fromkeys(EndReason, 0)
        self.away, self.queue, self.compute, self.batch = (Histogram(b) for b in (_SECONDS, _SECONDS, _SECONDS, _SIZES))
        self._watched: tuple[Sessions, int, int] | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def watch(self, sessions: Sessions, positions: int, cache_bytes: int) -> None:
        """From now on also show how full the cloud is, as it is when somebody looks.

        Args:
            sessions: who is there.
            positions: of a session, at most.
            cache_bytes: of keys and values, on this rank.
        """
        self._watched = (sessions, positions, cache_bytes)

    def decoded(self, waited_s: Sequence[float], seconds: float) -> None:
        """A decoding batch of ``seconds``, and how long each of its steps has waited for it."""
        self.batch.add(len(waited_s))
        self.compute.add(seconds, len(waited_s))
        for waited in waited_s:
            self.queue.add(waited)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        for name, about, count in (
            ("received_bytes", "Bytes of requests, without what ZeroMQ adds.", self.received),
            ("sent_bytes", "Bytes of replies, without what ZeroMQ adds.", self.sent),
            ("tokens", "Token ids chosen and handed out; a repeated answer counts once.", self.tokens),
            ("prompt_tokens", "Tokens of prompts that were computed.", self.prompt_positions),
            ("sessions_opened", "Sessions opened.", self.opened),
        ):
            yield CounterMetricFamily(f"split_llama_{name}", about, value=count)
        ended = CounterMetricFamily("split_llama_sessions_ended", "Sessions ended, by why.", labels=["why"])
        for why, count in self.ended.items():
            ended.add_metric([why.value], count)
        about = "Requests refused, by code; not counted: telling those that wait that they still do."
        refused = CounterMetricFamily("split_llama_refusals", about, labels=["code"])
        for code, count in self.refused.items():
            refused.add_metric([code.value], count)
        yield from (ended, refused)
        yield self.batch.metric("split_llama_decode_batch_size", "Sessions that share a decoding step.")
        for part, about, times in (
            ("away", "from a reply until the session's next step: device and network", self.away),
            ("queue", "from its arrival until its batch begins", self.queue),
            ("compute", "its batch, with the others in it", self.compute),
        ):
            yield times.metric(f"split_llama_decode_{part}_seconds", f"Of a decoding step: {about}.")
        if self._watched is not None:
            yield from self._levels(*self._watched)

    @staticmethod
    def _levels(sessions: Sessions, positions: int, cache_bytes: int) -> Iterator[Metric]:
        for name, about, level in (
            ("sessions_open", "Sessions that are open.", len(sessions)),
            ("sessions_waiting", "Opens that wait for a slot.", len(sessions.queue)),
            ("slots", "Slots of the KV cache: sessions that there is room for.", sessions.slots),
            ("cache_positions", "Positions that the cache has.", sessions.slots * positions),
            ("cache_filled_positions", "Positions that open sessions have filled.", sessions.filled()),
            ("cache_bytes", "Bytes allocated for keys and values, on the first rank.", cache_bytes),
        ):
            yield GaugeMetricFamily(f"split_llama_{name}", about, value=level)
