"""Claims about what outlives what: lines that break, clouds that are killed, devices that die. No token is lost.

SOAK=1 does more of the same.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from llama.checkpoint.halves import read_half, tokenizer_of
from llama.client import link as link_module
from llama.client.link import Link
from llama.edge.generation import GeneratedReply
from llama.sampling_params import SamplingParams
from llama.tokenizer import Tokenizer
from llama.wire import Close
from tests.chaos import BadLine
from tests.devices import converse
from tests.processes import Cloud, Mortal, cloud, edge, wait_until
from tests.support import GREEDY, MAX_SEQ_LEN, Halves, Served
from tests.volumes import SOAK
from tests.whole import load_edge

PROMPT = [258, 84, 104, 101, 32]
SAMPLED = SamplingParams(0.9, 0.95, 7)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def threads() -> tuple[int, int]:
    """Python's, and libzmq's own."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text())
        except OSError:
            continue
    return threading.active_count(), sum(name.startswith("ZMQ") for name in names)


# ---- the line


@pytest.mark.long
def test_conversations_over_a_bad_line_are_what_they_are_without_it(
    halves: Halves, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four devices at a time for three slots. Every id is right, no slot stays taken, nothing is left in memory."""
    monkeypatch.setattr(link_module, "STEP_TIMEOUT_S", 0.5)  # as silence is what the slowest mishap is made of
    chance = random.Random(1)
    talks = []
    for seed in range(200 if SOAK else 20):
        prompt = [258, *(chance.randrange(32, 127) for _ in range(chance.randrange(1, 40)))]
        n = chance.randrange(1, MAX_SEQ_LEN - len(prompt))
        talks.append((prompt, n, chance.choice([GREEDY, SamplingParams(0.9, 0.95, seed)])))
    expected = [halves.tokens(*talk) for talk in talks]
    with Served(halves, tokenizer, slots=3, idle_timeout_s=3.0) as served:
        converse(served.endpoint, halves.edge, tokenizer, *talks[0])
        before = open_files(), threads()
        with BadLine(port_of(served.endpoint), seed=1) as line:

            def talk(prompt: list[int], n: int, sampling: SamplingParams) -> tuple[list[int], str]:
                pieces = list[str]()
                reply = converse(
                    line.address, halves.edge, tokenizer, prompt, n, sampling, deadline_s=20.0, on_text=pieces.append
                )  # fmt: skip
                assert reply.text == "".join(pieces)
                return reply.tokens, reply.text

            with ThreadPoolExecutor(4) as devices:
                got = list(devices.map(lambda each: talk(*each), talks))
        assert got == [(ids, tokenizer.decode(ids)) for ids in expected]
        print(f"what happened to the line: {dict(line.happened)}")
        assert {"late", "cut", "halved", "lost", "mute"} <= set(line.happened), line.happened
        assert wait_until(lambda: len(served.server.sessions) == 0)
        assert wait_until(lambda: (open_files(), threads()) <= before), (open_files(), threads(), before)


# ---- the cloud


class Restartable:
    """A cloud in a thread that is stopped and started again on its port, with none of its sessions."""

    def __init__(self, halves: Halves, tokenizer: Tokenizer) -> None:
        self._halves, self._tokenizer = halves, tokenizer
        self.served = Served(halves, tokenizer)
        self.address = self.served.endpoint
        self.served.__enter__()

    def __enter__(self) -> Restartable:
        return self

    def __exit__(self, *_: object) -> None:
        self.served.__exit__()

    def restart(self, away_s: float = 0.0) -> None:
        self.served.__exit__()
        time.sleep(away_s)
        self.served = Served(self._halves, self._tokenizer, address=self.address)
        self.served.__enter__()


@pytest.mark.long
def test_a_cloud_that_restarts_under_any_token_of_a_reply_costs_none(halves: Halves, tokenizer: Tokenizer) -> None:
    """While the step after output 0 … 28 is under way, and, after the last one, before Finish."""
    n = 30
    expected = {sampling: halves.tokens(PROMPT, n, sampling) for sampling in (GREEDY, SAMPLED)}
    with Restartable(halves, tokenizer) as cloud:
        for index in range(n):
            pieces = list[str]()

            def on_text(text: str, index: int = index, pieces: list[str] = pieces) -> None:
                pieces.append(text)
                if len(pieces) == index + 1:
                    cloud.restart()

            sampling = (GREEDY, SAMPLED)[index % 2]
            got = converse(cloud.address, halves.edge, tokenizer, PROMPT, n, sampling, on_text=on_text)
            assert got.tokens == expected[sampling], index
            assert got.text == "".join(pieces) == tokenizer.decode(got.tokens)
            assert got.timing.reopened == 1
            assert len(cloud.served.server.sessions) == 0


@pytest.mark.long
def test_a_cloud_that_restarts_before_any_request_of_a_reply_costs_no_token(
    halves: Halves, tokenizer: Tokenizer
) -> None:
    """A prompt of three chunks, two tokens, Finish."""
    prompt = PROMPT * 8
    expected = halves.tokens(prompt, 2)
    with Restartable(halves, tokenizer) as cloud:
        for index in range(5):
            requests = 0

            def between_steps(index: int = index) -> None:
                nonlocal requests
                if requests == index:
                    cloud.restart()
                requests += 1

            got = converse(cloud.address, halves.edge, tokenizer, prompt, 2, GREEDY, between_steps=between_steps)
            assert got.tokens == expected and got.timing.reopened == 1, index


@pytest.fixture(scope="module")
def one_place(tiny_split: Callable[..., Path]) -> Iterator[Cloud]:
    """A cloud of the small model for one device at a time."""
    with cloud(tiny_split() / "cloud", "--max_batch_size", 1, "--session_idle_s", 1.5) as running:
        yield running


@pytest.mark.process
def test_a_killed_clouds_next_start_goes_on_with_the_reply(
    tiny_split: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL under a reply of 30 tokens. A timeout would take ten minutes; what is noticed is the lost connection."""
    monkeypatch.setattr(link_module, "STEP_TIMEOUT_S", 600.0)
    out, n = tiny_split(), 30
    half, tokenizer = load_edge(out), tokenizer_of(read_half(out / "edge", "edge"))
    kills = sorted(random.Random(3).sample(range(n), 10 if SOAK else 3))
    with Mortal(out / "cloud") as cloud:

        def ask(on_text: Callable[[str], None] = lambda text: None) -> GeneratedReply:
            return converse(cloud.address, half, tokenizer, PROMPT, n, SAMPLED, deadline_s=1200, on_text=on_text)

        undisturbed = ask()
        for index in kills:
            came = list[float]()

            def on_text(text: str, index: int = index, came: list[float] = came) -> None:
                came.append(time.monotonic())
                if len(came) == index + 1:
                    cloud.restart()

            got = ask(on_text)
            assert (got.tokens, got.text) == (undisturbed.tokens, undisturbed.text)
            assert got.timing.reopened == 1
            later = came[index + 1] - cloud.back_at
            print(f"killed after output {index}: the next came {later:.2f} s after the cloud")
        assert cloud.starts == 1 + len(kills)


@pytest.mark.process
def test_a_cloud_that_is_away_for_longer_than_its_silence_may_last_is_waited_for_in_a_reply(
    tiny_split: Callable[..., Path],
) -> None:
    """SIGKILL, and started again after twice the deadline: the text is the same, and the person is told the limit."""
    out, n, notices = tiny_split(), 12, list[str]()
    half, tokenizer = load_edge(out), tokenizer_of(read_half(out / "edge", "edge"))
    with Mortal(out / "cloud") as cloud:

        def ask(on_text: Callable[[str], None] = lambda text: None) -> GeneratedReply:
            return converse(
                cloud.address, half, tokenizer, PROMPT, n, SAMPLED, deadline_s=1.0, restart_deadline_s=120.0,
                on_text=on_text, on_notice=notices.append,
            )  # fmt: skip

        undisturbed, came = ask(), list[str]()

        def on_text(text: str) -> None:
            came.append(text)
            if len(came) == 5:
                restarting.start()
                restarting.join(0.5)  # so that it is gone when the next token is asked for

        restarting = threading.Thread(target=cloud.restart, kwargs={"away_s": 1.0})
        got = ask(on_text)
        restarting.join()
    assert (got.tokens, got.text) == (undisturbed.tokens, undisturbed.text) and "".join(came) == got.text
    assert got.timing.reopened == 1
    assert any("giving up after 120 s" in notice for notice in notices), notices


@pytest.mark.long
def test_a_cloud_that_drains_is_waited_for_until_its_next_start(halves: Halves, tokenizer: Tokenizer) -> None:
    """It lets one reply end, tells another device that it is stopping, goes, and is away for twice the deadline."""
    notices, came = list[str](), list[str]()
    reported = threading.Event()

    def on_notice(text: str) -> None:
        notices.append(text)
        reported.set()

    with Restartable(halves, tokenizer) as cloud, ThreadPoolExecutor(1) as other:

        def on_text(text: str) -> None:
            came.append(text)
            if len(came) == 1:
                cloud.served.drain()
                waiting.append(other.submit(
                    converse, cloud.address, halves.edge, tokenizer, PROMPT, 6, SAMPLED, deadline_s=0.6,
                    restart_deadline_s=60.0, on_notice=on_notice,
                ))  # fmt: skip
                assert reported.wait(20)

        waiting = list[Future[GeneratedReply]]()
        got = converse(cloud.address, halves.edge, tokenizer, PROMPT, 6, on_text=on_text)
        assert got.tokens == halves.tokens(PROMPT, 6) and got.timing.reopened == 0
        cloud.restart(away_s=1.2)
        assert waiting[0].result(60).tokens == halves.tokens(PROMPT, 6, SAMPLED)
    assert notices[0] == "the cloud is busy: the cloud is stopping; trying again in 1.0 s (giving up after 60 s)"


@pytest.mark.long
def test_a_reply_that_has_begun_waits_for_its_slot_in_a_restarted_cloud_as_long_as_for_the_cloud(
    halves: Halves, tokenizer: Tokenizer
) -> None:
    """The others were faster, and have taken all slots for longer than a new reply would wait."""
    from tests.support import open_request

    came = list[str]()
    with Restartable(halves, tokenizer) as cloud:
        with ExitStack() as stack:

            def on_text(text: str) -> None:
                came.append(text)
                if len(came) == 2:
                    cloud.restart()
                    peer = stack.enter_context(cloud.served.peer())
                    sessions = [cloud.served.open(peer, open_request()) for _ in range(4)]

                    def leave() -> None:
                        for session in sessions:
                            peer.ask(Close(session, 1))

                    leaving.append(threading.Timer(1.0, leave))
                    leaving[0].start()

            leaving = list[threading.Timer]()
            stack.callback(lambda: leaving[0].join())
            got = converse(
                cloud.address, halves.edge, tokenizer, PROMPT, 6, deadline_s=0.5, restart_deadline_s=60, on_text=on_text
            )  # fmt: skip
    assert got.tokens == halves.tokens(PROMPT, 6) and got.timing.reopened == 1


# ---- the device


@pytest.mark.process
def test_frozen_and_killed_devices_leave_their_slot_to_others_and_say_the_same_when_they_run_again(
    one_place: Cloud, tiny_split: Callable[..., Path], tmp_path: Path
) -> None:
    """One is frozen until another has its slot, and goes on; the other is killed, and started again."""
    (tmp_path / "prompt.txt").write_text("Why is the sky blue?")
    out = tiny_split()
    command = out / "edge", one_place.address, tmp_path / "prompt.txt"
    flags = "--plain", "--seed", 5, "--temperature", 0.9, "--max_gen_len", 600
    with edge(*command, *flags) as one, edge(*command, *flags) as other:
        assert one.stdout and other.stdout
        # Whichever has the slot is frozen; the other gets it once that has idled.
        has_it = select.select([one.stdout, other.stdout], [], [], 60)[0][0]
        frozen, killed = (one, other) if has_it is one.stdout else (other, one)
        frozen.send_signal(signal.SIGSTOP)
        assert frozen.stdout and killed.stdout
        assert select.select([killed.stdout], [], [], 60)[0]
        killed.kill()
        begun = os.read(frozen.stdout.fileno(), 1 << 20)
        frozen.send_signal(signal.SIGCONT)
        said = begun + rest_of(frozen)
    with edge(*command, *flags) as again:
        assert rest_of(again) == said
    assert 0 < len(begun) < len(said)


def rest_of(device: subprocess.Popen[str]) -> bytes:
    """What it says until it has ended well."""
    assert device.stdout and device.stderr
    said = b""
    while piece := os.read(device.stdout.fileno(), 1 << 20):
        said += piece
    assert device.wait(60) == 0, device.stderr.read()
    return said


@pytest.mark.long
def test_a_device_that_goes_without_a_word_leaves_no_session(halves: Halves, tokenizer: Tokenizer) -> None:
    """Its slot is free once it has been idle, and the next one gets it."""
    from tests.support import open_request

    with Served(halves, tokenizer, slots=1, idle_timeout_s=0.5) as served:
        with Link(served.endpoint, on_notice=lambda text: None) as link:
            link.ask(open_request(len(PROMPT)))
        got = converse(served.endpoint, halves.edge, tokenizer, PROMPT, 5)
        assert got.tokens == halves.tokens(PROMPT, 5)
        assert wait_until(lambda: len(served.server.sessions) == 0)
