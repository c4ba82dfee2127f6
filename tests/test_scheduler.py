"""Claims about steps that share a forward pass: which steps share one, and that no text depends on the batch."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama.cloud.model_runner import ModelRunner
from llama.cloud.scheduler import (
    AT_WORK_S,
    CHUNKS_SHARE,
    FREE_WASTE,
    MOST_GATHERING_S,
    PART_PASSES,
    WASTE,
    WINDOW_PASSES,
    Batch,
    Scheduler,
)
from llama.sampling_params import SamplingParams
from llama.tokenizer import Tokenizer
from llama.wire import Close, Closed, Error, Tokens
from tests.support import ARGS, MAX_SEQ_LEN, Halves, Served, open_request, step_of
from tests.volumes import examples


@pytest.fixture(scope="module")
def halves() -> Halves:
    return Halves()


@dataclass(frozen=True)
class Waits:
    """A step with the attributes that the scheduler uses."""

    slot: int
    end: int = 10
    is_decoding: bool = True
    owner: str = "one"
    length: int = 1
    sampled: int = 0
    repeated: float = 0.0


def chunk(slot: int, owner: str = "one", rows: int = 256, end: int = 256, **more: float) -> Waits:
    """Return a chunk: a part of a prompt."""
    return Waits(slot, end, False, owner, rows, **more)  # type: ignore[arg-type]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def waiting(*steps: Waits, clock: Clock | None = None) -> Scheduler[Waits]:
    scheduler = Scheduler[Waits](clock or Clock())
    for step in steps:
        scheduler.add(step)
    return scheduler


def steps_of(scheduler: Scheduler[Waits]) -> list[Waits]:
    """Return the steps of the next batch, and complete it at once."""
    computed = scheduler.next()
    if computed is None:
        return []
    assert scheduler.complete(computed, 0.0)
    return computed.steps


# ---- steps that share a pass


def test_all_that_decode_go_together_by_slot() -> None:
    assert steps_of(waiting(Waits(3), Waits(0), Waits(2))) == [Waits(0), Waits(2), Waits(3)]


def test_chunks_of_prompts_take_turns_with_those_that_decode() -> None:
    """One chunk, one pass, one chunk …: no session waits for more than one chunk, and no prompt waits forever."""
    chunks = [chunk(slot) for slot in (5, 6, 7)]
    scheduler, passes = waiting(Waits(1), Waits(2), *chunks), list[list[Waits]]()
    while len(scheduler):
        passes.append(steps_of(scheduler))
        if passes[-1][0].is_decoding:
            scheduler.add(Waits(1))  # it comes back at once, forever
        if len(passes) == 6:
            break
    assert passes == [[Waits(1), Waits(2)], [chunks[0]], [Waits(1)], [chunks[1]], [Waits(1)], [chunks[2]]]


def test_a_pass_waits_a_moment_for_sessions_that_are_about_to_come_back() -> None:
    """It waits for a share of the last pass's time, and not at all when all sessions are back."""
    clock = Clock()
    scheduler = waiting(Waits(0), Waits(1), clock=clock)
    computed = scheduler.next()
    assert computed is not None and scheduler.complete(computed, 10.0)
    scheduler.add(Waits(0, 11))
    assert scheduler.next() is None and 0 < scheduler.wait_s() <= MOST_GATHERING_S
    scheduler.add(Waits(1, 11))
    assert scheduler.wait_s() == 0 and len(steps_of(scheduler)) == 2
    scheduler.complete(Batch([Waits(0), Waits(1)]), 10.0)
    scheduler.add(Waits(0, 12))
    clock.now += MOST_GATHERING_S
    assert steps_of(scheduler) == [Waits(0, 12)]


def test_a_session_that_has_ended_is_not_waited_for_and_its_step_is_given_back() -> None:
    """This includes a session with a partly computed chunk. The chunk of its slot's next session is computed whole."""
    clock = Clock()
    scheduler = waiting(Waits(0), Waits(1), clock=clock)
    scheduler.complete(Batch([Waits(2)]), 10.0)
    assert scheduler.drop(2) == [] and scheduler.wait_s() == 0
    assert scheduler.drop(1) == [Waits(1)] and steps_of(scheduler) == [Waits(0)]
    scheduler.add(chunk(4, "other"))
    part = scheduler.next()
    assert part is not None and part.stop < 256 and not scheduler.complete(part, 0.1)
    assert scheduler.drop(4) == [chunk(4, "other")]
    scheduler.add(chunk(4, "third"))
    part = scheduler.next()
    assert part is not None and part.start == 0


@given(ends=st.dictionaries(st.integers(0, 63), st.integers(1, 100_000), min_size=1))
def test_however_long_sessions_are_little_is_read_in_vain_and_everybody_gets_a_turn(ends: dict[int, int]) -> None:
    """The step that has waited longest is always in the next pass."""
    steps = [Waits(slot, end) for slot, end in ends.items()]
    scheduler = waiting(*steps)
    while len(scheduler):
        together = steps_of(scheduler)
        assert steps[0] in together
        if len(together) > 1:
            read = (together[-1].slot - together[0].slot + 1) * max(step.end for step in together)
            assert read <= WASTE * sum(step.end for step in together) + FREE_WASTE
        steps = [step for step in steps if step not in together]
    assert steps == []


# ---- shares of the time


class Machine:
    """A model whose passes take known times, and sessions that send their next step after a known time away.

    Args:
        row_s: seconds of a row of a chunk at the beginning of a context; a decoding pass takes 1 second.
        long_s: additional seconds of a row at position 2048.
        sample_s: seconds of an id that is drawn.
        away_s: seconds from a reply until the session's next row.
    """

    def __init__(self, row_s: float = 0.05, long_s: float = 0.05, sample_s: float = 0.0, away_s: float = 0.1) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler[Waits](self.clock)
        self._position_s, self._long_s, self._sample_s, self._away_s = row_s, long_s, sample_s, away_s
        self.coming = list[tuple[float, Waits]]()
        self.used, self.rows = defaultdict[str, float](float), Counter[str]()  # seconds and rows of chunks, by owner
        self.tokens = dict[int, list[float]]()  # times of each decoding slot's tokens

    def comes(self, step: Waits, in_s: float = 0.0) -> None:
        self.coming.append((self.clock.now + in_s, step))

    def run(self, seconds: float) -> None:
        """Run for so many seconds. Each answered step comes again."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            for at, step in list(self.coming):
                if at <= self.clock.now:
                    self.coming.remove((at, step))
                    self.scheduler.add(step)
            computed = self.scheduler.next()
            if computed is None:
                waits = [at - self.clock.now for at, _ in self.coming]
                waits += [self.scheduler.wait_s()] if len(self.scheduler) else []
                self.clock.now += max(1e-6, min(waits))
                continue
            self._compute(computed)

    def _compute(self, computed: Batch[Waits]) -> None:
        if computed.is_decoding:
            self.clock.now += 1.0
            self.scheduler.complete(computed, 1.0)
            for step in computed.steps:
                self.tokens.setdefault(step.slot, []).append(self.clock.now)
                self.comes(step, self._away_s)
            return
        (step,) = computed.steps
        rows, first_drawn = computed.stop - computed.start, step.length - step.sampled
        drawn_s = self._sample_s * max(0, computed.stop - max(computed.start, first_drawn))
        seconds = rows * (self._position_s + self._long_s * step.end / 2048) + drawn_s
        self.clock.now += seconds
        self.used[step.owner] += seconds
        self.rows[step.owner] += rows
        if self.scheduler.complete(computed, seconds, drawn_s):
            self.comes(step, self._away_s)


@given(
    row_s=st.floats(0.005, 0.5),
    long_s=st.floats(0, 0.5),
    sample_s=st.floats(0, 1.0),
    away_s=st.floats(0.001, 0.5),
    hostile=st.integers(1, 8),
    sampled=st.sampled_from([0, 1, 64]),
    end=st.sampled_from([256, 2048]),
    repeated=st.sampled_from([0.0, 1.0]),
)
@examples(0.6)
def test_however_dear_the_steps_of_one_key_are_another_device_decodes_on(
    row_s: float, long_s: float, sample_s: float, away_s: float, hostile: int, sampled: int, end: int, repeated: float
) -> None:
    """One key sends chunks of many sessions without a pause. Another key decodes.

    The tokens of the other key come at half of its speed, or at two thirds if the chunks repeat computed positions.
    They are never five passes apart, unless a single row takes longer.
    """
    machine = Machine(row_s, long_s, sample_s, away_s)
    machine.comes(Waits(0, owner="honest"))
    machine.run(10)
    for slot in range(1, 1 + hostile):
        machine.comes(chunk(slot, "hostile", end=end, sampled=sampled, repeated=repeated))
    machine.run(8 * WINDOW_PASSES)
    settled = machine.clock.now
    machine.run(200)
    times = machine.tokens[0]
    dearest_row = row_s + long_s * end / 2048 + sample_s * bool(sampled)
    alone, got = 1 / (1 + away_s), sum(time > settled for time in times) / 200
    # A part, the pass, and the time away. The scheduler learnt a row's time at other positions, without drawing ids.
    gaps = [b - a for a, b in pairwise(times) if a > settled - 7 * WINDOW_PASSES]
    assert max(gaps) <= 1 + away_s + max(2 * PART_PASSES, dearest_row) + 0.01
    share = CHUNKS_SHARE / (1 + repeated)
    assert got >= alone * (1 - share) * 0.93 - 0.02
    # The key with the chunks does not starve, either: it gets its part, or as much as taking turns allows.
    assert machine.used["hostile"] / 200 >= 0.5 * min(share, alone * min(PART_PASSES, 256 * row_s))


def test_who_is_alone_gets_all_of_the_time_and_its_chunks_whole() -> None:
    """This holds also after much use, and again as soon as the other owners have gone."""
    machine = Machine()
    machine.comes(chunk(0, "one"))
    machine.run(100)
    assert machine.used["one"] > 95
    machine.comes(Waits(1, owner="other"))
    machine.run(50)
    with_the_other = machine.used["one"]
    assert with_the_other < 100 + 0.7 * 50
    machine.scheduler.drop(1)
    machine.coming = [each for each in machine.coming if each[1].is_decoding is False]
    machine.run(AT_WORK_S + WINDOW_PASSES)
    before = machine.used["one"]
    machine.run(100)
    assert machine.used["one"] - before > 95
    part = machine.scheduler.next()
    assert part is None or (part.start, part.stop) == (0, 256)


def test_a_new_prompt_is_served_before_those_of_who_has_had_much() -> None:
    """Four sessions of another owner send one chunk after the other meanwhile."""
    machine = Machine(away_s=0.001)
    for slot in range(4):
        machine.comes(chunk(slot, "greedy"))
    machine.run(100)
    before = machine.used["greedy"]
    machine.comes(chunk(7, "new", rows=100))
    while not machine.used["new"]:
        machine.run(0.1)
    assert machine.used["greedy"] - before <= 15, "one chunk that had begun, of 256 rows"


def test_prompts_share_all_of_the_time_where_nobody_decodes() -> None:
    """Four sessions of one owner and one session of another: each owner gets half, and the model is never idle."""
    machine = Machine(away_s=0.001)
    machine.comes(Waits(0, owner="before"))
    machine.run(10)
    machine.scheduler.drop(0)
    machine.coming.clear()
    for slot, owner in enumerate(["greedy"] * 4 + ["modest"], 1):
        machine.comes(chunk(slot, owner))
    machine.run(400)
    used = [machine.used["greedy"], machine.used["modest"]]
    assert sum(used) > 0.98 * 400 and max(used) < 1.1 * min(used)


def test_owners_of_chunks_get_equal_parts_however_many_sessions_they_have() -> None:
    """Three owners have one, two and four sessions, while a fourth owner decodes."""
    machine = Machine()
    machine.comes(Waits(0, owner="honest"))
    for slot, owner in enumerate(["a", "b", "b", "c", "c", "c", "c"], 1):
        machine.comes(chunk(slot, owner))
    machine.run(400)
    machine.used.clear()
    machine.run(400)
    used = [machine.used[owner] for owner in "abc"]
    assert max(used) < 1.3 * min(used)
    assert 0.55 * 400 < sum(used) < 0.8 * 400, "a quarter each, and turns with who decodes"


# ---- the numbers


@pytest.mark.parametrize("slots", [[0, 1, 2], [1, 2, 4], [0, 5], [3]])
def test_rows_that_share_a_pass_get_the_logits_that_they_get_alone(halves: Halves, slots: Sequence[int]) -> None:
    """Slots of different lengths, adjacent or not. The caches of the slots between stay unchanged."""
    generator = torch.Generator().manual_seed(1)
    rows = {slot: torch.randn(20, ARGS.dim, generator=generator) for slot in range(6)}
    ages = {slot: 3 + 2 * slot for slot in range(6)}
    alone, crowd = (ModelRunner(halves.cloud, halves.cloud.new_cache(6, MAX_SEQ_LEN), ARGS.dim) for _ in range(2))
    with torch.inference_mode():
        for runner in (alone, crowd):
            for slot, age in ages.items():
                runner.step(slot, 0, rows[slot][:age], 1)
        before = crowd.cache.keys_values.clone()
        new = torch.stack([rows[slot][ages[slot]] for slot in slots])
        together = crowd.decode(slots, [ages[slot] for slot in slots], new)
        for slot, logits in zip(slots, together, strict=True):
            expected = alone.step(slot, ages[slot], rows[slot][ages[slot] :][:1], 1)[0]
            torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
        others = [slot for slot in range(6) if slot not in slots]
        assert torch.equal(crowd.cache.keys_values[:, :, others], before[:, :, others])


def test_the_same_text_alone_and_in_a_crowd(halves: Halves, tokenizer: Tokenizer) -> None:
    """Twelve devices share eight slots, with prompts of all lengths, greedy and sampled.

    Each gets the text that it gets alone.
    """
    runs = [
        ([(7 * i + j) % 500 for j in range(1 + 3 * i)], SamplingParams(0.0 if i % 2 else 0.8, 0.9, seed=i))
        for i in range(12)
    ]
    with Served(halves, tokenizer, slots=8, most_waiting=4) as served:
        got, sizes = dict[int, list[int]](), list[int]()
        decode = ModelRunner.decode

        def counted(self: ModelRunner, slots: Sequence[int], *rest: object) -> torch.Tensor:
            sizes.append(len(slots))
            return decode(self, slots, *rest)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ModelRunner, "decode", counted)
            threads = [
                threading.Thread(target=lambda i=i: got.update({i: served.run(runs[i][0], 20, runs[i][1])}))
                for i in range(len(runs))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert max(sizes, default=0) >= 2, "no steps shared a pass"
        for i, (prompt, sampling) in enumerate(runs):
            assert got[i] == halves.tokens(prompt, 20, sampling), i
        assert len(served.server.sessions) == 0


def test_one_whose_rows_are_damaged_does_not_harm_those_in_the_same_pass(halves: Halves, tokenizer: Tokenizer) -> None:
    """Both steps arrive while another one is computed. One of them contains NaN."""
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
    """The running session continues to its end.

    A new one is refused as busy until the next start. Then serving ends.
    """
    with Served(halves, tokenizer) as served, served.peer() as peer, served.peer() as late:
        session = served.open(peer, open_request())
        served.drain()
        refusal = late.ask(open_request())
        assert isinstance(refusal, Error) and refusal.code == "busy" and "stopping" in refusal.message
        rows = halves.rows([1, 2, 3, 4, 5])
        assert isinstance(peer.ask(step_of(session, 1, 0, rows), rows), Tokens)
        assert served.thread.is_alive()
        assert isinstance(peer.ask(Close(session, 2)), Closed)
        served.thread.join(30)
        assert not served.thread.is_alive()


def test_a_drain_does_not_wait_for_ever(halves: Halves, tokenizer: Tokenizer) -> None:
    with Served(halves, tokenizer, drain_s=0.3) as served, served.peer() as peer:
        served.open(peer, open_request())
        served.drain()
        served.thread.join(30)
        assert not served.thread.is_alive()
