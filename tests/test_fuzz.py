"""Claims about a cloud that is sent all kinds of things: it goes on, nobody else notices, and nothing is left of it.

SOAK=1 sends ten times as much.
"""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from llama.checkpoint.halves import read_half, tokenizer_of
from llama.client.link import Link
from llama.edge.generation import EdgeHalf, GenerationSettings, generate_reply
from llama.keys import LinkKeys
from llama.tokenizer import Tokenizer
from llama.wire import Welcome
from tests.fuzzing import Fuzzer
from tests.processes import cloud, wait_until
from tests.support import GREEDY, Halves, Keys, Served
from tests.volumes import SOAK
from tests.whole import load_edge

MESSAGES = 100_000 if SOAK else 10_000  # of all tests here together
SAMPLES = 40  # of the memory
PROMPTS = ([258, 84, 104, 101, 32], [258, *range(40, 70)])
LIMITS = "--max_requests_s_per_key", "inf", "--max_mb_s_per_key", "inf"
GROWTH_MIB = 6.0  # of the second half of a run


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


class Devices:
    """Two honest devices that ask again and again, until they are told to stop; every reply must be the same."""

    def __init__(
        self, address: str, half: EdgeHalf, tokenizer: Tokenizer, welcome: Welcome, keys: LinkKeys | None = None
    ) -> None:
        self._address, self._half, self._tokenizer, self._welcome = address, half, tokenizer, welcome
        self._keys, self._stop = keys, threading.Event()
        self.replies = 0

    def ask(self, prompt: list[int]) -> list[int]:
        """One reply."""
        with Link(self._address, deadline_s=120, on_notice=lambda _: None, keys=self._keys) as link:
            return generate_reply(
                prompt, edge=self._half, link=link, welcome=self._welcome, tokenizer=self._tokenizer,
                settings=GenerationSettings(GREEDY, stop_ids=(), max_gen_len=12),
            ).tokens  # fmt: skip

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While this is entered; raises at the end if one was told anything else than before."""
        undisturbed = [self.ask(prompt) for prompt in PROMPTS]

        def keep_asking(which: int) -> None:
            while not self._stop.is_set():
                assert self.ask(PROMPTS[which]) == undisturbed[which]
                self.replies += 1

        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(keep_asking, which) for which in range(2)]
            try:
                yield
            finally:
                self._stop.set()
            for each in both:
                each.result()


def resident_mib(pid: int) -> float:
    """What a process has in memory, without what is mapped from files."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20


def fuzz(fuzzer: Fuzzer, devices: Devices, pid: int) -> None:
    """A share of all messages, while honest devices are at work and the memory is watched."""
    sizes = list[float]()
    with devices.asking():
        for _ in range(SAMPLES):
            fuzzer.send(-(-MESSAGES // 3 // SAMPLES))
            sizes.append(resident_mib(pid))
    half, quarter = SAMPLES // 2, SAMPLES // 4
    growth = statistics.median(sizes[-quarter:]) - statistics.median(sizes[half : half + quarter])
    slope = statistics.linear_regression(range(half), sizes[half:]).slope * half
    print(f"\n{fuzzer.sent} messages, {devices.replies} honest replies between them, all as they should be; memory "
          f"{sizes[0]:.1f} → {sizes[half]:.1f} → {sizes[-1]:.1f} MiB, slope over the second half {slope:+.2f} MiB; "
          f"{dict(fuzzer.happened.most_common())}")  # fmt: skip
    deep = {"bad_request", "out_of_sequence", "Opened", "Tokens", "Closed", "raw"}
    assert deep <= set(fuzzer.happened), fuzzer.happened  # all that was damaged did not end at the first question
    assert devices.replies
    assert growth < GROWTH_MIB, sizes


@pytest.mark.long
def test_whatever_is_sent_honest_devices_get_their_tokens_and_nothing_is_left_of_it(
    halves: Halves, tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a thread of this process, so that its books can be looked into."""
    before = set(threading.enumerate())
    with Served(halves, tokenizer, slots=8, idle_timeout_s=2.0) as served:
        server = served.server

        def nothing_is_left() -> bool:
            """No session, nobody who waits, nothing to be done, and every slot given back."""
            left: list[Sized] = [server.sessions, server.sessions.queue, server.results]
            return not any(map(len, left)) and not server.background.control_requests and server.sessions.free == 8

        with Fuzzer(served.endpoint, served.welcome, seed=1) as fuzzer:
            fuzz(fuzzer, Devices(served.endpoint, halves.edge, tokenizer, served.welcome), os.getpid())
        assert wait_until(nothing_is_left)
        assert served.run(PROMPTS[0], 8) == halves.tokens(PROMPTS[0], 8)
        assert wait_until(nothing_is_left)  # a row is given back when it has been cleared
        assert not served.cache.keys_values.any()
    assert set(threading.enumerate()) <= before
    out, err = capfd.readouterr()
    print(out)
    assert err == ""


@pytest.mark.process
@pytest.mark.parametrize("with_keys", [False, True], ids=["no keys", "keys"])
def test_whatever_is_sent_a_cloud_that_is_a_process_says_nothing_of_it_and_ends_well(
    tiny_split: Callable[..., Path], keys: Keys, with_keys: bool
) -> None:
    """One listed key floods, another one asks; without keys whoever comes."""
    out = tiny_split()
    half, tokenizer = load_edge(out), tokenizer_of(read_half(out / "edge", "edge"))
    flags = list[object]([*LIMITS, "--max_batch_size", 8, "--session_idle_s", 2])
    fuzzing = asking = None
    if with_keys:
        fuzzing, asking = keys.make("fuzzer"), keys.make("phone")
        flags += ["--key_file", keys.directory / "cloud.key", "--allow_dir", keys.allowed]
    with cloud(out / "cloud", *flags) as running:
        with Link(running.address, keys=asking) as link:
            welcome = link.hello()
        with Fuzzer(running.address, welcome, seed=2, keys=fuzzing) as fuzzer:
            fuzz(fuzzer, Devices(running.address, half, tokenizer, welcome, asking), running.pid)
        running.launcher.terminate()
        assert running.wait() == 0
        assert [line.split()[0] for line in running.said()] == ["ready", "stopped"], running.output()
