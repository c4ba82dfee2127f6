"""Claims about a cloud that has run for long: nobody gets a wrong word, and nothing is left of who has gone.

SOAK=1 runs ten times as many sessions.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import linear_regression

import pytest

from llama.checkpoint.halves import read_half, tokenizer_of
from llama.client.link import Link
from llama.sampling_params import SamplingParams
from llama.wire import Close, Opened
from tests.devices import converse
from tests.processes import cloud, footprint, wait_until
from tests.support import GREEDY, open_request
from tests.volumes import SOAK
from tests.whole import load_edge

pytestmark = pytest.mark.process

# Of the last 4096 sessions something is remembered: only after so many is nothing more to be kept of any.
SESSIONS = 10_000 if SOAK else 500
DEVICES, SLOTS = 16, 8
KEPT = 500 if SOAK else 100_000  # bytes of memory per session, but for the largest step: new kernels, or an allocator's
STEADILY = 200 if SOAK else 5000  # in the third in which it grows least


def short_talks(n: int) -> list[tuple[list[int], int, SamplingParams]]:
    """Prompts of 1 to 40 ids, replies of 1 to 3, half of them sampled."""
    chance = random.Random(4)
    return [
        (
            [258, *(chance.randrange(32, 127) for _ in range(chance.randrange(40)))], chance.randrange(1, 4),
            SamplingParams(0.9, 0.95, seed) if seed % 2 else GREEDY,
        )
        for seed in range(n)
    ]  # fmt: skip


def slope(sizes: Sequence[int]) -> float:
    """By how much it grows from one to the next."""
    return linear_regression(range(len(sizes)), sizes).slope


def without_largest_step(sizes: Sequence[int]) -> list[int]:
    """The sizes as if the process had grown at all times but one."""
    steps = [after - before for before, after in itertools.pairwise(sizes)]
    steps[steps.index(max(steps))] = 0
    return list(itertools.accumulate(steps, initial=sizes[0]))


def steady(sizes: Sequence[int]) -> float:
    """By how much it grows in that third in which it grows least: a leak grows in all, an allocator now and then."""
    third = len(sizes) // 3
    return min(slope(sizes[i : i + third]) for i in range(0, 3 * third, third))


def test_thousands_of_short_sessions_get_their_own_text_and_leave_nothing(tiny_split: Callable[..., Path]) -> None:
    """Sixteen devices at a time for eight slots, each session over a connection of its own.

    Memory is looked at after every session; connections, threads and slots when all have gone.
    """
    out = tiny_split()
    half, tokenizer, talks = load_edge(out), tokenizer_of(read_half(out / "edge", "edge")), short_talks(24)
    flags = ("--max_batch_size", SLOTS, "--max_seq_len", 64, "--threads", 1)
    one_arena = {"MALLOC_ARENA_MAX": "1"}  # glibc makes one per thread, whose first use would look like growth
    with cloud(out / "cloud", *flags, env=one_arena) as running:
        alone = [converse(running.address, half, tokenizer, *talk) for talk in talks]
        before, sizes = footprint(running.pid), list[int]()

        def session(number: int) -> tuple[str, list[int]]:
            reply = converse(running.address, half, tokenizer, *talks[number % len(talks)])
            sizes.append(footprint(running.pid).resident)
            return reply.text, reply.tokens

        with ThreadPoolExecutor(DEVICES) as devices:
            replies = devices.map(session, range(SESSIONS))
            assert list(replies) == [(r.text, r.tokens) for r in itertools.islice(itertools.cycle(alone), SESSIONS)]
        assert wait_until(lambda: footprint(running.pid)[1:] <= before[1:]), (footprint(running.pid), before)
        with Link(running.address, on_notice=lambda text: None) as link:
            fingerprint, link.waits_when_busy = link.hello().fingerprint, False
            slots = [link.ask(open_request(fingerprint=fingerprint)) for _ in range(SLOTS)]
            for slot in slots:
                assert isinstance(slot, Opened)
                link.ask(Close(slot.session, 1))
        settled = sizes[SESSIONS // 2 :]
        growth = slope(without_largest_step(settled))
        print(
            f"{SESSIONS} sessions: {sizes[0] / 2**20:.1f} MiB after the first, {settled[0] / 2**20:.1f} after half, "
            f"{settled[-1] / 2**20:.1f} after the last; {growth:.0f} bytes a session over the second half "
            f"({steady(settled):.0f} in its best third); {before.files} files and {before.threads} threads before "
            f"and after"
        )
        assert growth < KEPT and steady(settled) < STEADILY
