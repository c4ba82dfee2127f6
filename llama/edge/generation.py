"""The generation loop on the device: one prompt in, one reply out, token by token.

    ids ─ edge half ─ hidden ─ Step ──►  cloud  ──► Tokens ─ next id ─┐
     ▲                                                                │
     └────────────────────────────────────────────────────────────────┘

Knows: ids, hidden states, the edge half, the session in the cloud, the clock.
Does not know: files, flags, screens. It runs on the device only; the cloud never imports it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import torch

from llama.client.link import Link
from llama.edge.session import CloudSession
from llama.errors import CloudRefused, CloudUnreachable, LinkError, PromptError, UsageError
from llama.kv_cache import KVCache
from llama.sampling_params import SamplingParams
from llama.stages import StageClock
from llama.tokenizer import StreamDecoder, Tokenizer
from llama.wire import DeliveryStatus, ErrorCode, Final, Offer, Stages, Welcome

_T = TypeVar("_T")

CHUNK = 256  # prompt positions per Step; the cloud may allow fewer
MAX_REOPENS = 3  # in a row, without a token in between
MAY_BE_HANDED_ON = "the reply was complete, and the cloud may have handed it on"

StopReason = Literal["stop_token", "max_gen_len", "max_seq_len"]


class EdgeHalf(Protocol):
    """The part of ``model_edge.EdgeTransformer`` that the generation loop uses."""

    def __call__(
        self, tokens: torch.Tensor, start_pos: Sequence[int], cache: KVCache, clock: StageClock | None = None
    ) -> torch.Tensor:
        """Compute hidden ``(1, T, dim)`` from ids ``(1, T)``. Stop ``clock`` after the embeddings and each layer."""

    def new_cache(self, batch_size: int, max_seq_len: int) -> KVCache:
        """Return a new KV cache for the edge's layers."""


@dataclass(frozen=True)
class RoundTrip:
    """One request to the cloud and its answer, for a caller that measures.

    Attributes:
        position: position of the first hidden state that was sent.
        positions: number of hidden states that were sent.
        sent_bytes: all bytes that left the device for this request.
        token: the id that the cloud chose, or None if more of the prompt follows.
        index: index of that output.
        device_us: microseconds of the embeddings and of each of the device's layers.
        network_us: microseconds between the two halves.
        stages: the cloud's times.
    """

    position: int
    positions: int
    sent_bytes: int
    token: int | None
    index: int
    device_us: tuple[int, ...]
    network_us: int
    stages: Stages | None


@dataclass
class Timing:
    """Time and bytes of a run, in seconds, milliseconds and bytes. "Per token" means per decoded token.

    The first token is not a decoded token: the prompt's last chunk produces it. If the reply has one token, the
    per-token figures are None.
    """

    prompt_tokens: int = 0
    reply_tokens: int = 0
    time_to_first_token_s: float = 0.0
    total_s: float = 0.0
    tokens_per_s: float | None = None
    device_ms_per_token: float | None = None
    network_ms_per_token: float | None = None
    cloud_ms_per_token: float | None = None
    sent_bytes_per_token: float | None = None
    received_bytes_per_token: float | None = None
    prompt_sent_bytes: int = 0
    shared_tokens: int = 0  # tokens of the prompt that the cloud had computed before
    reopened: int = 0


@dataclass(frozen=True)
class GeneratedReply:
    """A finished reply. ``tokens`` excludes the stop token; ``prompt_tokens`` is the whole prompt as it was fed."""

    text: str = field(repr=False)
    tokens: list[int] = field(repr=False)
    prompt_tokens: list[int] = field(repr=False)
    stop_reason: StopReason
    timing: Timing
    offers: tuple[Offer, ...] = field(default=(), repr=False)
    copy: DeliveryStatus = DeliveryStatus.NONE  # state of the vendor's copy


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of a reply's generation that do not depend on the prompt.

    Attributes:
        sampling: sampling settings for the cloud.
        stop_ids: ids that end the reply.
        max_gen_len: maximum tokens of the reply; None means the rest of the context.
        chunk: maximum positions of the prompt per request.
    """

    sampling: SamplingParams
    stop_ids: Sequence[int]
    max_gen_len: int | None = None
    chunk: int = CHUNK


def generate_reply(
    prompt_tokens: Sequence[int],
    *,
    edge: EdgeHalf,
    link: Link,
    welcome: Welcome,
    tokenizer: Tokenizer,
    settings: GenerationSettings,
    prompt_id: str = "",
    run_id: bytes | None = None,
    shared: int = 0,
    on_text: Callable[[str], None] = lambda text: None,
    watch: Callable[[RoundTrip], None] | None = None,
    between_steps: Callable[[], None] = lambda: None,
    on_finish: Callable[[], None] = lambda: None,
) -> GeneratedReply:
    """Run a prompt through both halves until a stop id or the limit.

    Args:
        prompt_tokens: ids of the whole prompt, template included.
        edge: the device's half, in the dtype of ``welcome``.
        link: the connection to the cloud.
        welcome: the cloud's Welcome.
        tokenizer: decodes ids into the text that streams.
        settings: settings of the generation.
        prompt_id: the prompt sheet's id, or empty.
        run_id: id of the run; by default random bytes.
        shared: number of leading ids that are the same for every device. The cloud may have computed them.
        on_text: called with each new piece of text.
        watch: called with every round trip. Both halves measure their stages only if this is given.
        between_steps: called before each request. It may raise to end the run, which the cloud then never finishes.
        on_finish: called when the reply is complete, before the cloud is told. It may raise, too. After this call the
            cloud may have handed the reply on, even if its answer is lost.

    Raises:
        PromptError: the prompt leaves no room for a reply.
        LinkError: the cloud is gone or refuses, or its text differs from the text of the ids.
    """
    limit, stop_reason = reply_limit(len(prompt_tokens), settings.max_gen_len, welcome.max_seq_len)
    meter = _Meter(link)
    session = CloudSession(
        link,
        welcome,
        prompt_tokens=len(prompt_tokens),
        sampling=settings.sampling,
        stop_ids=settings.stop_ids,
        prompt_id=prompt_id,
        prefix_ids=prompt_tokens[:shared],
        run_id=run_id,
    )
    with session:
        with link.growing():
            builder = _ReplyBuilder(
                prompt_tokens,
                edge,
                session,
                meter,
                min(settings.chunk, welcome.max_rows),
                limit,
                watch,
                between_steps,
                on_finish,
            )
        if _stream(builder, limit, frozenset(settings.stop_ids), StreamDecoder(tokenizer), on_text):
            stop_reason = "stop_token"
        final = builder.finish()
    text = tokenizer.decode(builder.tokens)
    if final.text != text:
        raise LinkError(
            "the cloud's text differs from the ids it sent; both sides need the same tokenizer.model: "
            "copy edge/ and cloud/ from one run of split_checkpoint.py"
        )
    timing = meter.summary(len(prompt_tokens), len(builder.tokens))
    timing.shared_tokens = session.cached
    return GeneratedReply(text, builder.tokens, list(prompt_tokens), stop_reason, timing, final.offers, final.copy)


def _stream(
    builder: _ReplyBuilder, limit: int, stop: frozenset[int], decoder: StreamDecoder, on_text: Callable[[str], None]
) -> bool:
    """Generate up to ``limit`` tokens. Show each while the cloud computes the next. Return whether a stop id came."""
    unshown, stopped = list[str](), False

    def show() -> None:
        while unshown:
            on_text(unshown.pop(0))

    for _ in range(limit):
        token = builder.next_token(meanwhile=show)
        if token in stop:
            stopped = True
            break
        unshown.append(decoder.push(token))  # push refuses an id that is not in the vocabulary
        builder.tokens.append(token)
    show()
    on_text(decoder.finish())
    return stopped


def reply_limit(prompt: int, max_gen_len: int | None, max_seq_len: int) -> tuple[int, StopReason]:
    """Return the maximum tokens of a reply to ``prompt`` tokens, and the limit's name.

    Raises:
        PromptError: there is no room for a reply.
        UsageError: ``max_gen_len`` is below 1.
    """
    if max_gen_len is not None and max_gen_len < 1:
        raise UsageError(f"--max_gen_len must be 1 or more (got {max_gen_len})")
    if prompt < 1:
        raise PromptError("the prompt has no tokens")
    room = max_seq_len - prompt
    if room < 1:
        raise PromptError(
            f"the prompt has {prompt} tokens, but prompt and reply together may have {max_seq_len}; "
            f"shorten it, or start the cloud with a larger --max_seq_len"
        )
    if max_gen_len is None or max_gen_len > room:
        return room, "max_seq_len"
    return max_gen_len, "max_gen_len"


class _ReplyBuilder:
    """Builder of a reply: feed the ids that are not fed yet, and get the next id.

    The same step handles the prompt (many ids), a decoded token (one id), and the replay into a new session after the
    cloud lost the old one (all ids again).
    """

    def __init__(
        self,
        prompt: Sequence[int],
        edge: EdgeHalf,
        session: CloudSession,
        meter: _Meter,
        chunk: int,
        limit: int,
        watch: Callable[[RoundTrip], None] | None,
        between_steps: Callable[[], None],
        on_finish: Callable[[], None],
    ) -> None:
        self.prompt, self.tokens = list(prompt), list[int]()
        self.edge, self.session, self.meter, self.chunk = edge, session, meter, chunk
        self.watch, self.between_steps, self.on_finish = watch, between_steps, on_finish
        self.cache = edge.new_cache(1, len(prompt) + limit)
        self.fed = 0

    def next_token(self, meanwhile: Callable[[], None]) -> int:
        """Return the next id. ``meanwhile`` runs while the cloud computes, so that it costs no time."""
        return self._with_a_session(lambda: self._feed(meanwhile))

    def finish(self) -> Final:
        """Finish the run and return the cloud's text of the reply. The cloud then hands it on: no stop is possible."""
        self.between_steps()
        self.on_finish()
        try:
            return self._with_a_session(lambda: self.session.finish(len(self.tokens)))
        except CloudUnreachable as err:
            raise type(err)(f"{err}; {MAY_BE_HANDED_ON}") from None

    def _feed(self, meanwhile: Callable[[], None]) -> int:
        while self.fed < self.session.cached:  # the cloud has computed these, but the device's own cache needs them
            self.between_steps()
            end = min(self.fed + self.chunk, self.session.cached)
            self._hidden(self.prompt[self.fed : end], 0)
            self.fed = end
        ids = [*self.prompt, *self.tokens][self.fed :] if self.fed < len(self.prompt) else [self.tokens[-1]]
        decoding = len(ids) == 1 and bool(self.tokens)
        hidden, clock = self._hidden(ids, 0)
        for start in range(0, len(ids), self.chunk):
            self.between_steps()
            is_last = start + self.chunk >= len(ids)
            sent_at, sent_bytes = time.monotonic(), self.meter.sent_bytes
            sent, sent_clock = hidden, clock
            self.session.begin_step(hidden, self.fed + start, want=int(is_last), times=clock is not None)
            if not is_last:
                hidden, clock = self._hidden(ids, start + self.chunk)  # while the cloud works on the chunk before
            meanwhile()
            answer = self.session.finish_step()
            seconds = time.monotonic() - sent_at
            self.meter.round_trip(seconds, answer.compute_us / 1e6)
            if self.watch is not None and sent_clock is not None:
                self.watch(
                    RoundTrip(
                        self.fed + start,
                        len(sent),
                        self.meter.sent_bytes - sent_bytes,
                        answer.ids[0] if is_last else None,
                        len(self.tokens),
                        tuple(sent_clock.stages_us()),
                        max(0, round(1e6 * seconds) - answer.compute_us),
                        answer.stages,
                    )
                )
        self.fed += len(ids)
        self.meter.token(decoding)
        return answer.ids[0]

    def _hidden(self, ids: list[int], start: int) -> tuple[torch.Tensor, StageClock | None]:
        """Compute hidden states ``(T, dim)`` of a chunk and fill the device's cache. Return them and the clock."""
        with self.meter.on_device():
            tokens, position = torch.tensor([ids[start : start + self.chunk]]), [self.fed + start]
            if self.watch is None:
                return self.edge(tokens, position, self.cache)[0], None
            clock = StageClock(self.cache.keys_values.device)
            return self.edge(tokens, position, self.cache, clock)[0], clock

    def _with_a_session(self, ask: Callable[[], _T]) -> _T:
        """Call ``ask``. If the cloud has lost the session, open it again with the ids so far and replay everything."""
        for _ in range(MAX_REOPENS):
            try:
                return ask()
            except CloudRefused as err:
                if err.code != ErrorCode.UNKNOWN_SESSION:
                    raise
                self.session.open(self.tokens)
                self.fed = 0
                self.meter.timing.reopened += 1
        return ask()


class _Meter:
    """Sums of the time and the bytes per machine."""

    def __init__(self, link: Link) -> None:
        self.timing = Timing()
        self._link = link
        self._started = time.monotonic()
        self._device_s = self._network_s = self._cloud_s = 0.0
        self._bytes_before = (link.bytes_sent, link.bytes_received)
        self._totals = (0.0, 0.0, 0.0)  # device, network, cloud seconds of the decoded tokens
        self._bytes = (0, 0)
        self._decoded = 0
        self._first_at = self._last_at = 0.0

    @contextmanager
    def on_device(self) -> Iterator[None]:
        before = time.monotonic()
        yield
        self._device_s += time.monotonic() - before

    @property
    def sent_bytes(self) -> int:
        """Bytes that have left the device so far."""
        return self._link.bytes_sent

    def round_trip(self, seconds: float, cloud_s: float) -> None:
        cloud_s = min(cloud_s, seconds)
        self._cloud_s += cloud_s
        self._network_s += seconds - cloud_s

    def token(self, decoding: bool) -> None:
        """Count a token that has arrived, with the time and bytes since the last one."""
        now = time.monotonic()
        sent, received = self._link.bytes_sent, self._link.bytes_received
        if not self._first_at:
            self._first_at = now
            self.timing.prompt_sent_bytes = sent - self._bytes_before[0]
        if decoding:
            self._decoded += 1
            device, network, cloud = self._totals
            self._totals = (device + self._device_s, network + self._network_s, cloud + self._cloud_s)
            self._bytes = (
                self._bytes[0] + sent - self._bytes_before[0],
                self._bytes[1] + received - self._bytes_before[1],
            )
        self._last_at, self._bytes_before = now, (sent, received)
        self._device_s = self._network_s = self._cloud_s = 0.0

    def summary(self, prompt_tokens: int, reply_tokens: int) -> Timing:
        timing, n = self.timing, self._decoded
        timing.prompt_tokens, timing.reply_tokens = prompt_tokens, reply_tokens
        timing.time_to_first_token_s = self._first_at - self._started
        timing.total_s = time.monotonic() - self._started
        if n:
            timing.tokens_per_s = n / (self._last_at - self._first_at)
            per_token = (1000 * total / n for total in self._totals)
            timing.device_ms_per_token, timing.network_ms_per_token, timing.cloud_ms_per_token = per_token
            timing.sent_bytes_per_token, timing.received_bytes_per_token = (total / n for total in self._bytes)
        return timing
