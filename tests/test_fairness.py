"""Claims about the shares of a cloud: expensive requests, expensive steps, slots, runs; with real servers and keys."""

from __future__ import annotations

import time
import typing
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from llama import wire
from llama.client.link import Link
from llama.cloud.connections import MAX_PER_KEY, SILENT_S, Connections
from llama.cloud.metrics import total
from llama.cloud.rate_limit import RateLimiter, RateLimits
from llama.cloud.sessions import EndReason
from llama.sampling_params import SamplingParams
from llama.tokenizer import Tokenizer
from llama.wire import Close, Error, Hello, Opened, Refused, RequestDecoder, Tokens
from tests.processes import wait_until
from tests.raw import joined
from tests.support import (
    ARGS,
    MAX_ROWS,
    MAX_SEQ_LEN,
    Halves,
    Keys,
    Peer,
    Served,
    code_of,
    frames_of,
    open_request,
    step_of,
)  # fmt: skip
from tests.test_limits import Clock
from tests.volumes import examples

PROMPT = [258, 84, 104, 101, 32]
HELLO = Hello(wire.VERSION)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


# ---- sizes of requests


def unbounded(kind: msgspec.inspect.Type, where: str) -> Iterator[str]:
    """Return the fields of a message type that a peer may fill without limit."""
    if isinstance(kind, msgspec.inspect.StructType):
        for field in kind.fields:
            yield from unbounded(field.type, f"{where}.{field.name}")
    elif isinstance(kind, msgspec.inspect.UnionType):
        for each in kind.types:
            yield from unbounded(each, where)
    elif isinstance(kind, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
        if kind.max_length is None:
            yield where
        yield from unbounded(kind.item_type, where)
    elif isinstance(kind, msgspec.inspect.StrType | msgspec.inspect.BytesType):
        if kind.max_length is None and "{1," not in (getattr(kind, "pattern", None) or ""):
            yield where
    elif isinstance(kind, msgspec.inspect.DictType):
        yield where


@pytest.mark.parametrize("message", [*typing.get_args(wire.Request), *typing.get_args(wire.Reply)])
def test_every_sequence_of_every_message_has_a_bound(message: type[wire.WireMessage]) -> None:
    """Texts, bytes and lists, also within lists."""
    assert list(unbounded(msgspec.inspect.type_info(message), message.__name__)) == []


@given(context=st.integers(1, 5000), more=st.integers(1, 100))
@examples(0.4)
def test_more_resumed_ids_than_the_context_has_are_refused_before_they_are_decoded(context: int, more: int) -> None:
    """The elements are missing here, so the cloud can have read only the length before them."""
    whole = wire.encode(open_request(resumed_ids=(7,) * (context + more)))
    at = whole.index(b"resumed_ids") + len(b"resumed_ids")
    with pytest.raises(Refused, match=rf"length <= {context} .*resumed_ids"):
        RequestDecoder(context).decode(whole[: at + 5])
    fits = open_request(resumed_ids=(7,) * context)
    assert msgspec.structs.asdict(RequestDecoder(context).decode(wire.encode(fits))) == msgspec.structs.asdict(fits)


def test_a_header_longer_than_any_honest_one_is_refused_by_its_length() -> None:
    """This does not depend on its content. The longest valid requests are an Open with a full context and a Publish."""
    decoder = RequestDecoder(2048)
    assert decoder.max_header_bytes < 100_000
    decoder.decode(
        wire.encode(open_request(resumed_ids=(2**31 - 1,) * 2048, prompt_id="x" * 200, stop_ids=(2**31 - 1,) * 64))
    )
    decoder.decode(wire.encode(wire.Publish("v" * 40, "n" * 80, "x" * wire.MAX_SHEET_BYTES)))
    with pytest.raises(Refused, match="a header of"):
        decoder.decode(bytes(decoder.max_header_bytes + 1))
    assert RequestDecoder(131_072).max_header_bytes <= wire.MAX_HEADER_BYTES


def test_the_reason_of_a_refusal_is_short_whatever_a_field_is_called() -> None:
    with pytest.raises(Refused) as refused:
        RequestDecoder(64).decode(msgspec.msgpack.encode({"type": "hello", "x" * 50_000: 1}))
    assert len(refused.value.error.message) < 400


def test_what_is_too_long_is_refused_before_its_contents_are_looked_at(halves: Halves, tokenizer: Tokenizer) -> None:
    """The ids are not in the vocabulary, and too many for the context. The refusal names the number."""
    with Served(halves, tokenizer) as served, served.peer() as peer:
        refusal = peer.ask(open_request(10, resumed_ids=(10**6,) * (MAX_SEQ_LEN - 5)))
        assert isinstance(refusal, Error) and "the context of" in refusal.message


# ---- costs of requests


def test_work_is_charged_like_bytes_and_a_slow_disk_is_not() -> None:
    """A tenth of a second a second, with a burst of two seconds' allowance.

    Then the key waits until its use is paid off.
    """
    clock = Clock()
    budgets = RateLimiter(float("inf"), float("inf"), 0, clock, share=0.1)
    assert budgets.wait_s("one", 0) == 0
    budgets.charge("one", seconds=0.2)
    assert budgets.wait_s("one", 0) == 0
    budgets.charge("one", seconds=0.1)
    assert budgets.wait_s("one", 0) == pytest.approx(1.0) and budgets.wait_s("other", 0) == 0
    clock.now += 1.001
    assert budgets.wait_s("one", 0) == 0
    budgets.charge("nobody knows", seconds=9)
    assert budgets.wait_s("nobody knows", 0) == 0


def test_replies_count_as_bytes_of_who_gets_them() -> None:
    budgets = RateLimiter(100, float("inf"), 1, Clock())
    assert budgets.wait_s("one", 1) == 0
    budgets.charge("one", size=500)
    assert budgets.wait_s("one", 1) == pytest.approx((502 - 200) / 100)


def test_a_key_that_asks_for_dear_things_waits_and_others_do_not(
    halves: Halves, tokenizer: Tokenizer, keys: Keys
) -> None:
    """The most expensive headers that the cloud accepts, at a limit of a thousandth of the I/O thread's time."""
    greedy, modest = keys.make("greedy"), keys.make("modest")
    dear = frames_of(open_request(1, resumed_ids=(1,) * MAX_SEQ_LEN))
    with Served(halves, tokenizer, keys=keys.of_the_cloud(), limits=RateLimits(thread_share=0.001)) as served:
        with served.peer(keys=greedy) as peer:
            codes = list[str]()
            while "busy" not in codes:
                codes.append(code_of(peer.exchange(*dear)))
                assert len(codes) < 10_000
            assert set(codes) == {"out_of_range", "busy"}
        with served.peer(keys=modest) as peer:
            assert peer.ask(HELLO) == served.welcome


def test_runs_of_one_key_begin_at_their_rate(halves: Halves, tokenizer: Tokenizer, keys: Keys) -> None:
    """Four at once, then one a second. Those of another key begin at once. A device waits and gets its slot."""
    hasty, modest = keys.make("hasty"), keys.make("modest")
    with Served(halves, tokenizer, keys=keys.of_the_cloud(), limits=RateLimits(runs_s=1.0)) as served:
        with served.peer(keys=hasty) as peer:
            codes = list[str]()
            for _ in range(6):
                reply = peer.ask(open_request(1))
                codes.append(code_of(reply))
                if isinstance(reply, Opened):
                    assert code_of(peer.ask(Close(reply.session, 1))) == "Closed"
            assert codes[:4] == ["Opened"] * 4 and "busy" in codes[4:]
            assert isinstance(reply, Error) and reply.retry_after_s is not None and 0 < reply.retry_after_s <= 1.0
            assert "--max_runs_s_per_key" in reply.advice
        assert served.run(PROMPT, 4, keys=modest) == halves.tokens(PROMPT, 4)


# ---- slots


def test_nobody_has_several_slots_for_long_while_another_has_none(
    halves: Halves, tokenizer: Tokenizer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key has all four slots and keeps them in use, while another key waits.

    The session that was opened last is ended. Its run continues after it is opened again.
    """
    monkeypatch.setattr("llama.cloud.sessions.SHARE_WAIT_S", 0.3)
    greedy, modest = keys.make("greedy"), keys.make("modest")
    rows = halves.rows(PROMPT)
    with Served(halves, tokenizer, slots=4, most_waiting=4, keys=keys.of_the_cloud()) as served:
        with served.peer(keys=greedy) as peer, served.peer(keys=modest) as other:
            sessions = [served.open(peer, open_request()) for _ in range(4)]
            other.send_request(open_request())
            seq, ended = 0, list[bytes]()
            while not other.socket.poll(0):
                seq += 1
                for session in sessions:
                    reply = peer.ask(step_of(session, seq, 0, rows), rows)
                    if not isinstance(reply, Tokens):
                        assert code_of(reply) == "unknown_session"
                        ended.append(session)
                sessions = [session for session in sessions if session not in ended]
                time.sleep(0.05)
            assert isinstance(other.receive(), Opened)
            assert len(served.server.sessions) == 4 and len(sessions) + len(ended) == 4 and len(ended) <= 1
            assert total([served.server.metrics.ended[EndReason.SHARE]]) == 1


# ---- connections


class Watched(RuleBasedStateMachine):
    """Connections that open, send and close in any order, and the entries that are kept about them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.connections = Connections(self.clock)
        self.there = dict[int, tuple[str, float]]()

    @rule(descriptor=st.integers(0, 200))
    def comes(self, descriptor: int) -> None:
        self.connections.accepted(descriptor)
        self.there[descriptor] = "", self.clock.now

    @rule(descriptor=st.integers(0, 200))
    def goes(self, descriptor: int) -> None:
        self.connections.gone(descriptor)
        self.there.pop(descriptor, None)

    @rule(first=st.integers(0, 200), number=st.integers(1, 90), owner=st.sampled_from(["", "a", "b"]))
    def speak(self, first: int, number: int, owner: str) -> None:
        for descriptor in range(first, first + number):
            before = self.there.get(descriptor, ("", 0.0))[0]
            has = sum(each == owner for each, _ in self.there.values())
            fits = not owner or owner == before or has < MAX_PER_KEY
            assert self.connections.heard(descriptor, owner) == fits
            if fits:
                self.there[descriptor] = owner, self.clock.now

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        silent = sorted(d for d, (_, heard) in self.there.items() if self.clock.now - heard >= SILENT_S)
        assert sorted(self.connections.silent()) == silent
        for descriptor in silent:
            del self.there[descriptor]
        assert len(self.connections) == len(self.there)


TestConnectionsAreKnownByWhoseTheyAreAndWhenTheySpoke = Watched.TestCase
TestConnectionsAreKnownByWhoseTheyAreAndWhenTheySpoke.settings = examples(0.3)


def test_a_key_has_so_many_connections_and_no_more(
    halves: Halves, tokenizer: Tokenizer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud closes one over the limit at its first message, and answers the others and another key.

    When one of them has closed, the key may open another one.
    """
    monkeypatch.setattr("llama.cloud.connections.MAX_PER_KEY", 8)
    greedy, modest = keys.make("greedy"), keys.make("modest")
    with Served(halves, tokenizer, keys=keys.of_the_cloud()) as served, ExitStack() as stack:
        peers = [stack.enter_context(served.peer(keys=greedy)) for _ in range(9)]
        assert [code_of(peer.ask(HELLO)) for peer in peers[:8]] == ["Welcome"] * 8
        peers[8].send_request(HELLO)
        assert not peers[8].socket.poll(1000)
        assert [code_of(peer.ask(HELLO)) for peer in peers[:8]] == ["Welcome"] * 8
        assert served.run(PROMPT, 4, keys=modest) == halves.tokens(PROMPT, 4)
        peers[0].__exit__()
        with served.peer(keys=greedy) as another:
            assert wait_until(lambda: len(served.server.router.connections) <= 9)
            assert code_of(another.ask(HELLO)) == "Welcome"


def test_a_connection_over_which_nothing_is_said_is_closed_and_a_device_connects_anew(
    halves: Halves, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One peer never sends anything. A device sends again after a long silence."""
    monkeypatch.setattr("llama.cloud.connections.SILENT_S", 0.5)
    with Served(halves, tokenizer) as served, Link(served.endpoint, on_notice=lambda _: None) as link:
        link.hello()
        with joined(served.endpoint) as raw:
            raw.settimeout(30)
            while raw.recv(1 << 16):
                pass
        assert wait_until(lambda: len(served.server.router.connections) == 0)
        assert link.hello() == served.welcome


def test_one_key_leaves_room_for_the_control_requests_of_others(
    halves: Halves, tokenizer: Tokenizer, keys: Keys
) -> None:
    """One key asks for the sheets over so many connections that they would fill the queue of control requests."""
    greedy, modest = keys.make("greedy"), keys.make("modest")
    with Served(halves, tokenizer, keys=keys.of_the_cloud()) as served, ExitStack() as stack:
        peers = [stack.enter_context(served.peer(keys=greedy)) for _ in range(40)]
        for _ in range(3):
            for peer in peers:
                peer.send_request(wire.ListSheets())
            assert {code_of(peer.receive()) for peer in peers} <= {"Sheets", "busy"}
            with served.peer(keys=modest) as peer:
                assert code_of(peer.ask(wire.ListSheets())) == "Sheets"


# ---- steps in parts


@pytest.mark.parametrize("sampling", [SamplingParams(0.0), SamplingParams(0.9, 0.95, 3)], ids=["greedy", "sampled"])
def test_a_chunk_that_is_computed_in_parts_gives_the_ids_and_times_of_the_whole(
    halves: Halves, tokenizer: Tokenizer, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another device decodes meanwhile, and the parts have one row each."""
    monkeypatch.setattr("llama.cloud.scheduler.PART_PASSES", 0.0)
    ids = [*PROMPT, *range(40, 40 + MAX_ROWS - len(PROMPT))]
    with Served(halves, tokenizer) as served, served.peer() as peer, served.peer() as other:
        rows = halves.rows(ids)
        step = {"position": 0, "rows": rows, "want": MAX_ROWS - len(PROMPT) + 1}
        whole = ask_for_times(served, peer, sampling, step)
        one = halves.rows(PROMPT)
        with served.session(other, open_request(len(PROMPT))) as decoding:
            assert isinstance(other.ask(step_of(decoding, 1, 0, one), one), Tokens)
            row = halves.rows([*PROMPT, 7])[-1:]
            assert isinstance(other.ask(step_of(decoding, 2, len(PROMPT), row), row), Tokens)
            steps = halves.cloud.steps
            in_parts = ask_for_times(served, peer, sampling, step)
        assert halves.cloud.steps == steps + MAX_ROWS
        assert in_parts.ids == whole.ids and len(in_parts.ids) == MAX_ROWS - len(PROMPT) + 1
        assert in_parts.stages is not None and len(in_parts.stages.layers_us) == ARGS.n_layers - 1


def ask_for_times(served: Served, peer: Peer, sampling: SamplingParams, step: dict[str, Any]) -> Tokens:
    """Return the reply to a prompt's only chunk, in a separate session."""
    with served.session(peer, open_request(len(PROMPT), sampling)) as session:
        header = step_of(session, 1, step["position"], step["rows"], step["want"])
        reply = peer.ask(msgspec.structs.replace(header, times=True), step["rows"])
    assert isinstance(reply, Tokens), reply
    return reply


def test_damage_in_a_later_part_of_a_chunk_refuses_all_of_it(
    halves: Halves, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session continues from the position before the chunk."""
    monkeypatch.setattr("llama.cloud.scheduler.PART_PASSES", 0.0)
    with Served(halves, tokenizer) as served, served.peer() as peer, served.peer() as other:
        one = halves.rows(PROMPT)
        with (
            served.session(other, open_request(len(PROMPT))) as decoding,
            served.session(peer, open_request(5)) as session,
        ):
            assert isinstance(other.ask(step_of(decoding, 1, 0, one), one), Tokens)
            row = halves.rows([*PROMPT, 7])[-1:]
            assert isinstance(other.ask(step_of(decoding, 2, len(PROMPT), row), row), Tokens)
            rows = halves.rows([*PROMPT, *range(40, 40 + MAX_ROWS - len(PROMPT))])
            damaged = torch.cat([rows[:-1], torch.full_like(rows[-1:], float("nan"))])
            assert peer.refusal(step_of(session, 1, 0, damaged, MAX_ROWS - 4), damaged) == "not_finite"
            reply = peer.ask(step_of(session, 2, 0, one), one)
            assert isinstance(reply, Tokens) and list(reply.ids) == halves.tokens(PROMPT, 1)
