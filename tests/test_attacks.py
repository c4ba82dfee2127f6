"""What an outside attacker with one listed key found; each is a claim that did not hold when it was written."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama.cloud import query, worker
from llama.cloud.prompt_leak import SystemPrompt
from llama.cloud.scheduler import Batch, Scheduler
from llama.cloud.sessions import AGAIN_S, SHARE_WAIT_S, Sessions
from llama.edge.generation import MAX_REOPENS
from llama.sampler import at_mass, sample
from llama.sampling_params import SamplingParams
from llama.tokenizer import Tokenizer
from llama.wire import MAX_SHEET_BYTES, Error, Tokens
from tests.support import MAX_ROWS, Halves, Served, open_request, step_of
from tests.test_limits import Clock

PASS_S, ROW_S, SAMPLE_S = 0.03, 0.002, 0.005  # SmolLM2 on one core, about


@dataclass(frozen=True)
class Waits:
    """A step, as the bookkeeping sees it."""

    slot: int
    owner: str
    length: int = 1
    end: int = 1
    is_decoding: bool = True
    sampled: int = 0
    repeated: float = 0.0


def cost(computed: Batch[Waits]) -> tuple[float, float]:
    """Seconds of a pass as real models take them: reading the weights, then so much a row; and of them, for ids."""
    rows = len(computed.steps) if computed.is_decoding else computed.stop - computed.start
    ids = (
        sum(step.sampled for step in computed.steps)
        if computed.is_decoding
        else max(0, computed.stop - max(computed.start, computed.steps[0].length - computed.steps[0].sampled))
    )
    return PASS_S + ROW_S * rows + SAMPLE_S * ids, SAMPLE_S * ids


class World:
    """A scheduler whose passes take as long as :func:`cost` says; who decodes comes back at once."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler[Waits](self.clock)

    def step(self) -> Batch[Waits] | None:
        """The next pass, whole; those that decode wait again afterwards."""
        computed = self.scheduler.next()
        if computed is None:
            self.clock.now += max(0.001, min(0.2, self.scheduler.wait_s()))
            return None
        seconds, sampling_s = cost(computed)
        self.clock.now += seconds
        self.last_whole = self.scheduler.complete(computed, seconds, sampling_s)
        if computed.is_decoding:
            for step in computed.steps:
                self.scheduler.add(step)
        return computed


def honest_prompt_s(beside: str) -> float:
    """Seconds until a prompt of 512 rows is computed, while an honest device decodes and somebody else is there."""
    world = World()
    world.scheduler.add(Waits(0, "decodes"))
    if beside == "chunks of one row":
        for slot in (1, 2, 3, 4):
            world.scheduler.add(Waits(slot, "attacker", 1, 100, is_decoding=False))
    if beside == "a decoding device":
        world.scheduler.add(Waits(1, "other"))
    for _ in range(200):
        computed = world.step()
        if computed and not computed.is_decoding and world.last_whole:
            world.scheduler.add(computed.steps[0])
    began, left = world.clock.now, 2
    world.scheduler.add(Waits(9, "honest", 256, 256, is_decoding=False))
    while left:
        computed = world.step()
        if computed and not computed.is_decoding and world.last_whole:
            left -= computed.steps[0].slot == 9
            if computed.steps[0].slot == 9 and left:
                world.scheduler.add(Waits(9, "honest", 256, 512, is_decoding=False))
            elif computed.steps[0].slot != 9:
                world.scheduler.add(computed.steps[0])
        assert world.clock.now - began < 600
    return world.clock.now - began


def test_chunks_of_one_row_do_not_make_another_keys_prompt_a_matter_of_minutes() -> None:
    """A chunk of one row costs a pass: by it, the cloud believes that every row of everybody's costs a pass."""
    alone = honest_prompt_s("a decoding device")
    assert honest_prompt_s("chunks of one row") < 4 * alone


@pytest.mark.parametrize("what", ["decoding", "chunk"])
def test_a_step_that_is_refused_teaches_the_cloud_nothing_about_what_steps_cost(
    halves: Halves, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """NaN is refused before the model is asked, in no time: learnt from it, passes or rows would cost nothing."""
    made = list[Scheduler[Any]]()

    class Watched(Scheduler[Any]):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(worker, "Scheduler", type("S", (Watched,), {"__class_getitem__": lambda cls, _: cls}))
    rows = halves.rows([258, 84, 104, 101, 32, 84])
    with Served(halves, tokenizer) as served, served.peer() as peer:
        with served.session(peer, open_request(5)) as session:
            for seq, (start, stop, want) in enumerate(((0, 5, 1), (5, 6, 1)), 1):
                reply = peer.ask(step_of(session, seq, start, rows[start:stop], want), rows[start:stop])
                assert isinstance(reply, Tokens)
        costs = made[0].costs
        probe = Waits(0, "probe", 256, 256, is_decoding=False)

        def estimates() -> list[float | int | None]:
            return [costs.decoding_s, *(costs.positions_within(2.0**-power, probe, 0) for power in range(16))]

        before = estimates()
        bad = torch.full((1 if what == "decoding" else 2, rows.shape[1]), math.nan)
        with served.session(peer, open_request(1, SamplingParams(100.0, 1.0, 1))) as session:
            for seq in range(1, 41):
                refused = peer.ask(step_of(session, seq, 0, bad, len(bad)), bad)
                assert isinstance(refused, Error) and refused.code == "not_finite"
        assert estimates() == before


@pytest.mark.parametrize("sign", [".", ":", "...", "?!"])
def test_no_reply_takes_the_interpreter_for_long(sign: str) -> None:
    """A regular expression has the interpreter until it is done: no thread of the cloud does anything meanwhile."""
    text = "a" + (sign * 10_000)[: query.MAX_TEXT - 2] + "x"
    began = time.thread_time()
    query.query_of(text, frozenset({"bandung"}))
    assert time.thread_time() - began < 0.2


def test_a_run_is_not_ended_for_another_owner_again_and_again() -> None:
    """A gateway has all four slots. One other key waits for one, lets it go, and waits again: the gateway's newest
    run, which has just been opened again, is always the one that ends; after MAX_REOPENS its device gives up."""
    clock = Clock()
    sessions = Sessions(4, 120.0, clock, per_owner=4)
    lost = dict.fromkeys(range(4), 0)
    requests = [open_request() for _ in range(4)]
    for request in requests:
        sessions.enqueue(request, b"d", b"gateway", "gateway")
    running = {requests.index(s.request): s for _, s in sessions.admit()}

    def end(session: object) -> None:
        sessions.close(session)  # type: ignore[arg-type]
        sessions.release(session.slot)  # type: ignore[attr-defined]

    for _ in range(6):
        other, asked = open_request(), clock.now
        while True:
            sessions.enqueue(other, b"d", b"attacker", "attacker")
            for session in sessions.beyond_their_share():
                which = next(i for i, s in running.items() if s is session)
                end(session)
                lost[which] += 1
            taken = [s for _, s in sessions.admit()]
            if taken:
                break
            sessions.still_waiting()
            clock.now += 0.5
            assert clock.now - asked < SHARE_WAIT_S + AGAIN_S + 1
        # The one that lost its slot opens again; the attacker closes at once: it was never after the slot.
        sessions.enqueue(requests[which], b"d", b"gateway", "gateway")
        end(taken[0])
        for _, session in sessions.admit():
            running[requests.index(session.request)] = session
        clock.now += 0.5
    assert max(lost.values()) <= MAX_REOPENS, lost


def test_a_whole_chunk_is_not_computed_because_a_device_is_slow() -> None:
    """A device that takes more than a second for a token (a slow line, a slow phone) has its gaps, too."""
    world = World()
    scheduler = world.scheduler
    longest = 0.0
    for _ in range(20):
        scheduler.add(Waits(0, "slow"))
        asked, done = world.clock.now, False
        while not done:
            computed = scheduler.next()
            if computed is None:
                world.clock.now += 0.001
                continue
            seconds, sampling_s = cost(computed)
            world.clock.now += seconds
            whole = scheduler.complete(computed, seconds, sampling_s)
            if computed.is_decoding:
                done = True
            elif whole:
                scheduler.add(computed.steps[0])
        longest = max(longest, world.clock.now - asked)
        back = world.clock.now + 1.1  # it comes back then; meanwhile the other one is "alone"
        if not len(scheduler):
            for slot in (1, 2, 3, 4):
                scheduler.add(Waits(slot, "attacker", MAX_ROWS * 16, 2048, is_decoding=False, sampled=64))
        while world.clock.now < back:
            computed = scheduler.next()
            if computed is None:
                world.clock.now += 0.001
                continue
            seconds, sampling_s = cost(computed)
            world.clock.now += seconds
            if scheduler.complete(computed, seconds, sampling_s):
                scheduler.add(computed.steps[0])
        longest = max(longest, world.clock.now - back + PASS_S)  # what was begun before it came back
    assert longest < 5 * PASS_S


def decoded_in(seconds: float, *others: Waits) -> int:
    """Tokens that an honest device gets in so many seconds, from when the others begin; it comes back at once."""
    world = World()
    world.scheduler.add(Waits(0, "honest"))
    for _ in range(50):
        world.step()
    for step in others:
        world.scheduler.add(step)
    began, tokens = world.clock.now, 0
    while world.clock.now - began < seconds:
        computed = world.step()
        if computed is None:
            continue
        tokens += any(step.slot == 0 for step in computed.steps)
        if not computed.is_decoding and world.last_whole:
            world.scheduler.add(computed.steps[0])
    return tokens


@pytest.mark.parametrize("seconds", [10.0, 30.0])
def test_prompts_without_end_leave_a_device_seven_tenths_of_its_tokens(seconds: float) -> None:
    """Rows that were never computed before, in new sessions, which do not count double."""
    fresh = [Waits(slot, "attacker", 256, 1024, is_decoding=False) for slot in (1, 2, 3, 4)]
    beside_honest = decoded_in(seconds, Waits(1, "other"))
    assert decoded_in(seconds, *fresh) >= 0.7 * beside_honest


def drawn_s(sampling: SamplingParams, words: int) -> float:
    """Seconds to draw an id, the least of some tries."""
    logits, took = torch.randn(words, generator=torch.Generator().manual_seed(1)), list[float]()
    for index in range(7):
        began = time.thread_time()
        sample(logits, sampling, index)
        took.append(time.thread_time() - began)
    return min(took)


@pytest.mark.parametrize(
    "sampling", [SamplingParams(100.0, 1.0, 1), SamplingParams(100.0, 0.999, 1), SamplingParams(1.0, 1.0, 1)]
)
def test_ids_drawn_from_the_whole_vocabulary_cost_little_more_than_others(sampling: SamplingParams) -> None:
    """Sessions that decode share passes, and their ids are drawn one after the other: sorting 128,256 words for each of
    one key's would be paid by all.
    """
    assert drawn_s(sampling, 128_256) < 8 * drawn_s(SamplingParams(0.01, 0.9, 1), 128_256)


@given(
    words=st.integers(1, 300), seed=st.integers(0, 99), mass=st.floats(0, 1), spread=st.sampled_from([0.0, 0.1, 3, 90])
)
def test_the_id_at_a_mass_is_the_one_that_sorting_everything_gives(
    words: int, seed: int, mass: float, spread: float
) -> None:
    """Whatever the distribution; equal probabilities come in the order of their ids."""
    logits = torch.randn(words, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread
    probs = torch.softmax(logits, -1)
    by_likelihood, ids = torch.sort(probs, descending=True, stable=True)
    cumulative = by_likelihood.cumsum(-1)
    place = min(int(torch.searchsorted(cumulative, mass, right=True)), words - 1)
    found, total = at_mass(probs, mass)
    if min(abs(cumulative - mass)) > 1e-9:  # or the last bit of a sum decides
        assert found == int(ids[place])
    assert total == pytest.approx(float(cumulative[ids == found]))


def test_marks_above_and_below_a_letter_do_not_take_the_interpreter_for_long() -> None:
    """Unicode's normal forms sort the marks of a letter, in time that grows with their number squared, in one call that
    keeps the interpreter. So long a sheet may a third party publish; it is normalised at each run's end, twice."""
    sheet = "a" + "\u0301" * 16_000 + "\u0327" * 16_000
    assert len(sheet.encode()) < MAX_SHEET_BYTES
    prompt = SystemPrompt("never sell two of a kind to the same person, whoever asks", _Words())  # type: ignore[arg-type]
    began = time.thread_time()
    prompt.is_quoted_in("a reply", known=sheet)
    assert time.thread_time() - began < 0.2


class _Words:
    """A token a word."""

    def encode(self, text: str, *, bos: bool, eos: bool) -> list[int]:
        self.words = [f" {word}".encode() for word in text.split()]
        return list(range(len(self.words)))

    def token_bytes(self, token: int) -> bytes:
        return self.words[token]


def test_the_only_slot_is_not_one_owners_for_ever() -> None:
    """A session that asks for something now and then is never idle; who has one slot has no several."""
    clock = Clock()
    sessions = Sessions(1, 120.0, clock, per_owner=4)
    sessions.enqueue(open_request(), b"d", b"attacker", "attacker")
    ((_, held),) = sessions.admit()
    waits = open_request()
    for _ in range(3600):
        clock.now += 1.0
        held.seq = 1
        sessions.find(held.id, "attacker")  # any request, also one that is repeated or refused
        sessions.enqueue(waits, b"e", b"honest", "honest")
        sessions.still_waiting()
        if sessions.idle() or sessions.beyond_their_share():
            return
    pytest.fail("an hour, and no slot")


def longest_gap_in_passes(*, poisoned: bool) -> float:
    """Of a device that decodes, beside 256 rows at the end of the context, 64 drawn ids wanted, again and again; and
    where each of them comes after 24 steps of two rows that are NaN."""
    world, damaged = World(), Waits(1, "attacker", 2, 2, False, 2, 1.0)
    heavy = Waits(2, "attacker", 256, 2048, False, 64, 1.0)
    scheduler, clock = world.scheduler, world.clock
    scheduler.add(Waits(0, "honest"))
    for _ in range(50):
        world.step()
    last, longest, end = clock.now, 0.0, clock.now + 60
    turns = itertools.cycle([damaged] * (24 if poisoned else 0) + [heavy])
    scheduler.add(next(turns))
    while clock.now < end:
        computed = scheduler.next()
        if computed is None:
            clock.now += 0.005
            continue
        refused = computed.steps[0] is damaged
        seconds, sampling_s = (0.0001, 0.0) if refused else cost(computed)
        clock.now += seconds
        if refused:
            scheduler.fail(computed)
        ended = not refused and scheduler.complete(computed, seconds, sampling_s)
        if computed.is_decoding:
            longest, last = max(longest, clock.now - last), clock.now
            scheduler.add(computed.steps[0])
        elif refused or ended:
            scheduler.add(next(turns))
    return longest / PASS_S


def test_damaged_steps_do_not_let_a_heavy_one_through_whole() -> None:
    """They are refused in no time, by which the cloud believes that rows and drawn ids cost nothing."""
    assert longest_gap_in_passes(poisoned=False) <= 5
    assert longest_gap_in_passes(poisoned=True) <= 5
