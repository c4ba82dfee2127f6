"""Several ranks under torchrun say what one rank says, and end together, whatever ends one of them.

That other numbers of ranks than fit the model are refused when it is split is in test_split_checkpoint.py.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama.chat import Message
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.client.link import Link
from llama.edge.generation import GeneratedReply, GenerationSettings, generate_reply
from llama.errors import CloudUnreachable
from llama.sampling_params import SamplingParams
from tests.devices import converse
from tests.processes import Cloud, Mortal, alive, cloud, end, launch, wait_until, without_events
from tests.volumes import SOAK
from tests.whole import generate, load_edge, load_whole

pytestmark = pytest.mark.process
SOAKED = pytest.mark.skipif(not SOAK, reason="make soak does it; its like is tried beside it")

GREEDY = SamplingParams(temperature=0)
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # ranks that spin would take each other's cores
TORCHRUNS_OWN = re.compile(r"^[WE]\d{4} ")  # lines of its log

Splits = Callable[..., Path]


@pytest.fixture
def pair(tiny_split: Splits) -> Path:
    """A cloud half for two ranks."""
    return tiny_split(ranks=2) / "cloud"


def replies(
    out: Path, address: str, prompts: list[list[int]], length: int, on_text: Callable[[str], None] = lambda text: None,
    deadline_s: float = 30,
) -> list[GeneratedReply]:  # fmt: skip
    """Greedy replies to prompts of ids, whatever stop tokens they hold."""
    edge, tokenizer = load_edge(out), tokenizer_of(read_half(out / "edge", "edge"))
    with Link(address, deadline_s=deadline_s, on_notice=lambda notice: None) as link:
        welcome = link.hello()
        return [
            generate_reply(
                prompt, edge=edge, link=link, welcome=welcome, tokenizer=tokenizer,
                settings=GenerationSettings(GREEDY, stop_ids=(), max_gen_len=length), on_text=on_text,
            )
            for prompt in prompts
        ]  # fmt: skip


# --- The same tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ranks", "k"), [(2, 1), (2, 3), (4, 2)])
def test_several_ranks_of_a_small_model_say_what_one_says(ranks: int, k: int, tiny_split: Splits) -> None:
    """fp32, 16 greedy tokens after prompts of 1 token to several chunks; 4 ranks hold 2 key/value heads twice."""
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(0, 516, (length,), generator=generator).tolist() for length in (1, 17, 256, 600)]
    whole, out = load_whole(tiny_split(k)), tiny_split(k, ranks=ranks)
    with cloud(out / "cloud", "--threads", 1, ranks=ranks, env=ONE_THREAD) as running:
        assert len(running.ranks()) == ranks
        found = replies(out, running.address, prompts, 16)
    for prompt, reply in zip(prompts, found, strict=True):
        assert reply.tokens == generate(whole, prompt, GREEDY, 16, keep_logits=False).tokens
    assert len({token for reply in found for token in reply.tokens}) > 20


def test_three_ranks_of_smollm2_say_what_one_says(smollm2_split: Splits) -> None:
    """fp32, 9 heads and 3 key/value heads: 6 greedy tokens after a question, and after a prompt of two chunks."""
    whole, out = load_whole(smollm2_split(1)), smollm2_split(1, ranks=3)
    half = read_half(out / "edge", "edge")
    chat = chat_format_of(half, tokenizer_of(half))
    texts = [
        "Siapa presiden pertama Indonesia?",
        "Sum up. " + " ".join(f"On day {n} it rained {n * 7 % 11} mm." for n in range(30)),
    ]
    prompts = [chat.encode_dialog_prompt([Message("user", text)]) for text in texts]
    with cloud(out / "cloud", "--threads", 1, ranks=3, env=ONE_THREAD) as running:
        found = replies(out, running.address, prompts, 6)
    for prompt, reply in zip(prompts, found, strict=True):
        assert reply.tokens == generate(whole, prompt, GREEDY, 6, keep_logits=False).tokens
    assert len(prompts[1]) > 256


# --- The wrong number -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started", "cure"),
    [
        (1, r"start 2 rank\(s\), or split again: .* --cloud_model_parallel_size 1 \(SOURCE: the original check.*"),
        pytest.param(
            4,
            r"start 2 rank\(s\), or split again: .* --cloud_model_parallel_size 4 \(SOURCE: the original check.*",
            marks=SOAKED,
        ),
        (3, r"start 2 rank\(s\)"),  # the model cannot be cut for 3
    ],
)
def test_another_number_of_ranks_than_the_half_is_cut_for_is_refused(
    started: int, cure: str, pair: Path, tmp_path: Path
) -> None:
    """Before anything is loaded: one line of each rank that names the cure, no traceback, a failed torchrun."""
    log = tmp_path / "log"
    launcher = launch(log, "--ckpt_dir", pair, ranks=started, env=ONE_THREAD)
    try:
        assert launcher.wait(120) != 0
    finally:
        end(launcher)
    lines = said_by_ranks(log.read_text())
    assert 1 <= len(lines) <= started  # torchrun ends the others as soon as one has failed
    expected = re.escape(f"error: {pair} is divided for 2 rank(s), but {started} run; ") + cure
    assert all(re.fullmatch(expected, line) for line in lines)


def said_by_ranks(output: str) -> list[str]:
    """What the ranks printed: all but torchrun's log, and its own traceback and report, which come last."""
    lines = output.partition('Traceback (most recent call last):\n  File "<frozen runpy>"')[0]
    return [line for line in without_events(lines) if not TORCHRUNS_OWN.match(line)]


# --- The end --------------------------------------------------------------------------------------------------------


def to_torchrun(number: int) -> Callable[[Cloud], None]:
    return lambda running: running.launcher.send_signal(number)


def to_rank(rank: int, number: int) -> Callable[[Cloud], None]:
    return lambda running: os.kill(running.ranks()[rank], number)


def to_all(running: Cloud) -> None:
    """As a terminal does on Ctrl-C: SIGINT to every process of the group."""
    for pid in (running.launcher.pid, *running.ranks()):
        os.kill(pid, signal.SIGINT)


def outputs_after(running: Cloud, act: Callable[[Cloud], None]) -> tuple[int, list[str]]:
    """torchrun's exit code and what the ranks said after the "ready" line; no process is left."""
    pids = running.ranks()
    act(running)
    code = running.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in pids)), "a rank outlived torchrun"
    ready, *lines = said_by_ranks(running.output())
    assert ready.startswith("ready in ")
    return code, lines


@pytest.mark.parametrize(
    ("act", "code"),
    [
        pytest.param(to_torchrun(signal.SIGTERM), 1, id="SIGTERM to torchrun"),
        pytest.param(to_torchrun(signal.SIGINT), 1, id="SIGINT to torchrun", marks=SOAKED),
        pytest.param(to_all, 1, id="Ctrl-C"),
        pytest.param(to_rank(0, signal.SIGTERM), 0, id="SIGTERM to rank 0"),
        pytest.param(to_rank(0, signal.SIGINT), 0, id="SIGINT to rank 0", marks=SOAKED),
    ],
)
def test_a_signal_ends_all_ranks_cleanly(act: Callable[[Cloud], None], code: int, pair: Path) -> None:
    """They say "stopped" once and nothing else. (The code is torchrun's: 1 where it got a signal itself.)"""
    with cloud(pair, ranks=2, env=ONE_THREAD) as running:
        assert running.pid == running.ranks()[0]
        assert outputs_after(running, act) == (code, ["stopped"])


def test_a_signal_in_the_middle_of_a_reply_ends_all_ranks_cleanly(pair: Path) -> None:
    """SIGTERM to torchrun; the device, which gets no more answers, gives up with an error."""
    with cloud(pair, "--drain_s", 0, ranks=2, env=ONE_THREAD) as running:
        lines = interrupted_reply(running, pair.parent, to_torchrun(signal.SIGTERM))
    assert lines == ["stopped"]


@pytest.mark.parametrize(
    ("killed", "reported"),
    [
        (0, "error: rank 0 is gone; start the cloud again"),
        (1, "error: another rank is gone; start the cloud again"),
    ],
)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_killed_rank_ends_the_others_with_one_line(killed: int, reported: str, busy: bool, pair: Path) -> None:
    """SIGKILL while nobody asks, and in the middle of a reply, whose device gets an error; torchrun fails."""
    act = to_rank(killed, signal.SIGKILL)
    with cloud(pair, ranks=2, env=ONE_THREAD) as running:
        if busy:
            lines = interrupted_reply(running, pair.parent, act)
        else:
            code, lines = outputs_after(running, act)
            assert code != 0
    assert lines == [reported]


def test_a_reply_goes_on_with_the_next_start_after_a_rank_is_killed_in_its_middle(pair: Path) -> None:
    """First rank 0, then, under the same reply, rank 1 of the next start: the very text of an undisturbed one."""
    kills = {8: (0, "error: rank 0 is gone; start the cloud again"),
             20: (1, "error: another rank is gone; start the cloud again")}  # fmt: skip
    edge, tokenizer = load_edge(pair.parent), tokenizer_of(read_half(pair.parent / "edge", "edge"))
    with Mortal(pair, "--threads", 1, ranks=2, env=ONE_THREAD) as mortal:
        prompt, pieces = [258, 65, 66], list[str]()

        def on_text(text: str) -> None:
            pieces.append(text)
            if len(pieces) in kills:
                rank, reported = kills[len(pieces)]
                pids = mortal.running.ranks()
                killed = mortal.restart(rank)
                assert said_by_ranks(killed.output())[1:] == [reported]
                assert wait_until(lambda: not any(alive(pid) for pid in pids)), "a rank outlived torchrun"

        undisturbed = converse(mortal.address, edge, tokenizer, prompt, 32)
        reply = converse(mortal.address, edge, tokenizer, prompt, 32, deadline_s=120, on_text=on_text)
    assert (reply.tokens, reply.text) == (undisturbed.tokens, undisturbed.text)
    assert reply.timing.reopened == len(kills) and "".join(pieces) == reply.text


def interrupted_reply(running: Cloud, out: Path, act: Callable[[Cloud], None]) -> list[str]:
    """What the ranks said after ``act`` at a device's tenth token; the device does not wait forever."""
    tokens = list[str]()

    def on_text(text: str) -> None:
        tokens.append(text)
        if len(tokens) == 10:
            act(running)

    pids = running.ranks()
    with pytest.raises(CloudUnreachable, match=re.escape(running.address)):
        replies(out, running.address, [[258, 65, 66]], 2000, on_text, deadline_s=3)
    assert running.wait() != 0
    assert wait_until(lambda: not any(alive(pid) for pid in pids)), "a rank outlived torchrun"
    return said_by_ranks(running.output())[1:]
