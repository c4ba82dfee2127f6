"""Claims about steps that share a forward pass: who goes together, and that nobody's text depends on the company."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama.cloud.batching import FREE_WASTE, MOST_GATHERING_S, WASTE, Batching
from llama.cloud.ranks import Ranks
from llama.sampling import Sampling
from llama.tokenizer import Tokenizer
from llama.wire import Close, Closed, Error, Tokens
from tests.support import ARGS, MAX_SEQ_LEN, Halves, Served, opening, step_of


@pytest.fixture(scope="module")
def halves() -> Halves:
    return Halves()


@dataclass(frozen=True)
class Waits:
    """A step, as the bookkeeping sees it."""

    slot: int
    end: int = 10
    is_decoding: bool = True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def waiting(*steps: Waits, clock: Clock | None = None) -> Batching[Waits]:
    batching = Batching[Waits](clock or Clock())
    for step in steps:
        batching.add(step)
    return batching


# ---- who goes together


def test_all_that_decode_go_together_by_slot() -> None:
    assert waiting(Waits(3), Waits(0), Waits(2)).next() == [Waits(0), Waits(2), Waits(3)]


def test_chunks_of_prompts_take_turns_with_those_that_decode() -> None:
    """One chunk, one pass, one chunk …: nobody waits longer than for one chunk, and no prompt waits for ever."""
    chunks = [Waits(slot, 16, is_decoding=False) for slot in (5, 6, 7)]
    batching, passes = waiting(Waits(1), Waits(2), *chunks), list[list[Waits]]()
    while len(batching):
        passes.append(batching.next())
        if passes[-1][0].is_decoding:
            batching.add(Waits(1))  # it comes back at once, for ever
        if len(passes) == 6:
            break
    assert passes == [[Waits(1), Waits(2)], [chunks[0]], [Waits(1)], [chunks[1]], [Waits(1)], [chunks[2]]]


def test_a_pass_waits_a_moment_for_sessions_that_are_about_to_come_back() -> None:
    """For a share of the last pass's time, and never when all are there."""
    clock = Clock()
    batching = waiting(Waits(0), Waits(1), clock=clock)
    batching.decoded(batching.next(), seconds=10.0)
    batching.add(Waits(0, 11))
    assert batching.next() == [] and 0 < batching.wait_s() <= MOST_GATHERING_S
    batching.add(Waits(1, 11))
    assert batching.wait_s() == 0 and len(batching.next()) == 2
    batching.decoded([Waits(0), Waits(1)], seconds=10.0)
    batching.add(Waits(0, 12))
    clock.now += MOST_GATHERING_S
    assert batching.next() == [Waits(0, 12)]


def test_a_session_that_has_ended_is_not_waited_for_and_its_step_is_given_back() -> None:
    clock = Clock()
    batching = waiting(Waits(0), Waits(1), clock=clock)
    batching.decoded([Waits(2)], seconds=10.0)
    assert batching.drop(2) == [] and batching.wait_s() == 0
    assert batching.drop(1) == [Waits(1)] and batching.next() == [Waits(0)]


@given(ends=st.dictionaries(st.integers(0, 63), st.integers(1, 100_000), min_size=1))
@settings(max_examples=200, deadline=None)
def test_however_long_sessions_are_little_is_read_in_vain_and_everybody_gets_a_turn(ends: dict[int, int]) -> None:
    """The one that has waited longest is always in the next pass."""
    steps = [Waits(slot, end) for slot, end in ends.items()]
    batching = waiting(*steps)
    while len(batching):
        together = batching.next()
        assert steps[0] in together
        if len(together) > 1:
            read = (together[-1].slot - together[0].slot + 1) * max(step.end for step in together)
            assert read <= WASTE * sum(step.end for step in together) + FREE_WASTE
        steps = [step for step in steps if step not in together]
    assert steps == []


# ---- the numbers


@pytest.mark.parametrize("slots", [[0, 1, 2], [1, 2, 4], [0, 5], [3]])
def test_rows_that_share_a_pass_get_the_logits_that_they_get_alone(halves: Halves, slots: Sequence[int]) -> None:
    """Rows of different ages, neighbours or with others between, whose caches are left as they were."""
    generator = torch.Generator().manual_seed(1)
    rows = {slot: torch.randn(20, ARGS.dim, generator=generator) for slot in range(6)}
    ages = {slot: 3 + 2 * slot for slot in range(6)}
    alone, crowd = (Ranks(halves.cloud, halves.cloud.new_cache(6, MAX_SEQ_LEN), ARGS.dim) for _ in range(2))
    with torch.inference_mode():
        for ranks in (alone, crowd):
            for slot, age in ages.items():
                ranks.step(slot, 0, rows[slot][:age], 1)
        before = crowd.cache.keys_values.clone()
        new = torch.stack([rows[slot][ages[slot]] for slot in slots])
        together = crowd.decode(slots, [ages[slot] for slot in slots], new)
        for slot, logits in zip(slots, together, strict=True):
            expected = alone.step(slot, ages[slot], rows[slot][ages[slot] :][:1], 1)[0]
            torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
        others = [slot for slot in range(6) if slot not in slots]
        assert torch.equal(crowd.cache.keys_values[:, :, others], before[:, :, others])


def test_the_same_text_alone_and_in_a_crowd(halves: Halves, tokenizer: Tokenizer) -> None:
    """Twelve devices at once over eight rows, prompts of all lengths, greedy and sampled: what each would get alone."""
    runs = [
        ([(7 * i + j) % 500 for j in range(1 + 3 * i)], Sampling(0.0 if i % 2 else 0.8, 0.9, seed=i)) for i in range(12)
    ]
    with Served(halves, tokenizer, slots=8, most_waiting=4) as served:
        got, sizes = dict[int, list[int]](), list[int]()
        decode = Ranks.decode

        def counted(self: Ranks, slots: Sequence[int], *rest: object) -> torch.Tensor:
            sizes.append(len(slots))
            return decode(self, slots, *rest)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ranks, "decode", counted)
            threads = [
                threading.Thread(target=lambda i=i: got.update({i: served.run(runs[i][0], 20, runs[i][1])}))
                for i in range(len(runs))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert max(sizes, default=0) >= 2, "nobody shared a pass"
        for i, (prompt, sampling) in enumerate(runs):
            assert got[i] == halves.tokens(prompt, 20, sampling), i
        assert len(served.server.sessions) == 0


def test_one_whose_rows_are_damaged_does_not_harm_those_in_the_same_pass(halves: Halves, tokenizer: Tokenizer) -> None:
    """Both steps come while another is computed; one holds NaN."""
    prompt = [1, 2, 3]
    with (
        Served(halves, tokenizer, slots=3) as served,
        served.peer() as one,
        served.peer() as two,
        served.peer() as third,
    ):
        with served.session(one) as s1, served.session(two) as s2, served.session(third) as s3:
            rows = halves.rows([*prompt, 4, 5])
            for peer, session in ((one, s1), (two, s2), (third, s3)):
                assert isinstance(peer.ask(step_of(session, 1, 0, rows[:4], 0), rows[:4]), Tokens)
            damaged = torch.full((1, ARGS.dim), float("nan"))
            with halves.cloud.held():
                one.send_request(step_of(s1, 2, 4, rows[4:]), rows[4:])
                assert halves.cloud.computing.wait(30)
                two.send_request(step_of(s2, 2, 4, damaged), damaged)
                third.send_request(step_of(s3, 2, 4, rows[4:]), rows[4:])
                time.sleep(0.3)
            refusal, good = two.receive(), third.receive()
            assert isinstance(refusal, Error) and refusal.code == "not_finite"
            alone = one.receive()
            assert isinstance(good, Tokens) and isinstance(alone, Tokens) and good.ids == alone.ids


# ---- drained


def test_a_cloud_that_drains_ends_what_runs_and_begins_nothing(halves: Halves, tokenizer: Tokenizer) -> None:
    """The running session goes on to its end, a new one is told to wait for the next start, then serving ends."""
    with Served(halves, tokenizer) as served, served.peer() as peer, served.peer() as late:
        session = served.open(peer, opening())
        served.drain()
        refusal = late.ask(opening())
        assert isinstance(refusal, Error) and refusal.code == "busy" and "stopping" in refusal.message
        rows = halves.rows([1, 2, 3, 4, 5])
        assert isinstance(peer.ask(step_of(session, 1, 0, rows), rows), Tokens)
        assert served.thread.is_alive()
        assert isinstance(peer.ask(Close(session, 2)), Closed)
        served.thread.join(30)
        assert not served.thread.is_alive()


def test_a_drain_does_not_wait_for_ever(halves: Halves, tokenizer: Tokenizer) -> None:
    with Served(halves, tokenizer, drain_s=0.3) as served, served.peer() as peer:
        served.open(peer, opening())
        served.drain()
        served.thread.join(30)
        assert not served.thread.is_alive()
