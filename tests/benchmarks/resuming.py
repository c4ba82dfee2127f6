"""How often a resumed reply is the undisturbed one, word for word, in bfloat16; and how soon it goes on after a kill.

    python -m tests.benchmarks.resuming [--checkpoint_dir .demo/smollm2] [--conversations 20] [--losses 3] [--kills 4]

A real cloud over loopback, greedy, 30 tokens at most. A device that has lost its session sends prompt and ids as one
prefill. In float32 the text is the same; in bfloat16 a prefill's last bits are others than those of single steps, so a
near tie may fall the other way: how often it does is the first figure, over losses after outputs that a seeded dice
chooses. To spare the beginning of each reply a second time, it is that prefill which is asked for. The cloud that is
killed (SIGKILL) under a reply and started again takes the whole way, and must give just what the prefill gives. Its
seconds are those from its "ready" line to the device's next token, beside those of the same prefill undisturbed; the
difference is what noticing takes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from llama.chat import Message
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.command import run
from llama.device import cpu_threads
from llama.dtypes import DTYPES
from llama.edge.generation import GeneratedReply
from llama.errors import SplitLlamaError, UsageError
from tests.benchmarks.reporting import Aimed, Others, end_cleanly_on_sigterm, machine, progress, versions
from tests.devices import converse
from tests.processes import Mortal
from tests.whole import load_edge

TOKENS = 30
QUIET = 0.05
ABOUT = [
    "tea", "volcanoes", "chess", "bicycles", "the Moon", "batik", "rice", "glass", "honey bees", "coral reefs", "jazz",
    "bridges", "snow", "paper", "Bandung", "the violin",
]  # fmt: skip
ASKED = [
    "Explain {} in one sentence.", "Write a short story about {}.", "Name three facts about {}.",
    "Why do people like {}?", "What would a child ask about {}?",
]  # fmt: skip


def main(
    checkpoint_dir: str = ".demo/smollm2", conversations: int = 20, losses: int = 3, kills: int = 4,
    dtype: str = "bfloat16", threads: int | None = None, seed: int = 1,
) -> None:  # fmt: skip
    """Print the figures.

    Args:
        checkpoint_dir: what split_checkpoint.py wrote.
        conversations: undisturbed replies.
        losses: of the session, for each of them.
        kills: of the cloud under a reply.
        dtype: of both halves.
        threads: of the device and of the cloud; by default the cores, which wait for each other if others use them.
        seed: of what is asked, and where it is lost.
    """
    if not 1 <= conversations <= len(ABOUT) * len(ASKED) or losses < 1 or kills < 1:
        raise UsageError(f"--conversations must be 1 to {len(ABOUT) * len(ASKED)}, --losses and --kills 1 or more")
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not supported; use {', '.join(DTYPES)}")
    end_cleanly_on_sigterm()
    print(machine())
    print(versions(["torch", "pyzmq"]))
    cpu = cpu_threads(threads, 1)
    torch.set_num_threads(cpu)
    dice, others = random.Random(seed), Others()
    talks = list[tuple[list[int], list[int]]]()  # prompt and reply
    resumed, differing = 0, list[tuple[int, int]]()  # the loss, and where the first other token is
    later, prefills = list[float](), list[float]()
    with Mortal(Path(checkpoint_dir) / "cloud", "--dtype", dtype, "--threads", cpu, "--max_batch_size", 2) as cloud:
        device = Device(checkpoint_dir, dtype, cloud)
        questions = dice.sample([how.format(what) for what in ABOUT for how in ASKED], conversations)
        for number, question in enumerate(questions, 1):
            progress(f"conversation {number} of {conversations}")
            prompt = device.prompt(question)
            reply = device.reply(prompt).tokens
            talks.append((prompt, reply))
            for lost in dice.sample(range(1, len(reply)), min(losses, len(reply) - 1)):
                resumed += 1
                ids = [*reply[:lost], *device.reply([*prompt, *reply[:lost]], TOKENS - lost).tokens]
                if ids != reply:
                    differing.append((lost, first_difference(ids, reply)))
        share = others.share()
        for number in range(1, kills + 1):
            progress(f"kill {number} of {kills}")
            prompt, reply = dice.choice(talks)
            lost = dice.randrange(1, len(reply))
            killed = device.reply(prompt, kill_after=lost)
            later.append(device.came[lost] - cloud.back_at)
            expected = device.reply([*prompt, *reply[:lost]], TOKENS - lost)
            prefills.append(expected.timing.time_to_first_token_s)
            if killed.tokens != [*reply[:lost], *expected.tokens]:
                raise SplitLlamaError("a device whose cloud was killed says other tokens than the prefill gives")
    same = 100 * (1 - len(differing) / resumed)
    print(f"\n{Path(checkpoint_dir).name}, {dtype}, greedy, {conversations} replies of {TOKENS} tokens at most, "
          f"{resumed} times resumed\n")  # fmt: skip
    print(Aimed("resumed replies that are the undisturbed ones", [same], " %", 1).line())
    for lost, first in sorted(differing):
        print(f"  another one: lost after {lost} tokens, the first difference {first - lost} tokens later")
    print(Aimed("from a killed cloud's return to the next token", later, " s").line())
    print(Aimed("an undisturbed prefill of the same ids", prefills, " s").line())
    noticed = [a - b for a, b in zip(later, prefills, strict=True)]
    print(Aimed("the difference: noticing that it is back", noticed, " s", at_most=0.5).line())
    print(f"  other processes took {100 * share:.1f} % of the cores meanwhile"
          + ("" if share <= QUIET else ": NOT a quiet machine, do not rely on these times"))  # fmt: skip


class Device:
    """The device, and whoever kills its cloud.

    Attributes:
        came: when each output of the last reply came, in monotonic seconds.
    """

    def __init__(self, checkpoint_dir: str, dtype: str, cloud: Mortal) -> None:
        half = read_half(Path(checkpoint_dir) / "edge", "edge")
        self._edge, self._tokenizer, self._cloud = load_edge(checkpoint_dir, DTYPES[dtype]), tokenizer_of(half), cloud
        self._chat = chat_format_of(half, self._tokenizer)
        self.came = list[float]()

    def prompt(self, question: str) -> list[int]:
        """A dialogue of one message."""
        return self._chat.encode_dialog_prompt([Message("user", question)])

    def reply(self, prompt: Sequence[int], tokens: int = TOKENS, kill_after: int = 0) -> GeneratedReply:
        """A reply; after so many tokens the cloud is killed and started again, once."""
        self.came = []

        def on_text(_: str) -> None:
            self.came.append(time.monotonic())
            if len(self.came) == kill_after:
                self._cloud.restart()

        return converse(
            self._cloud.address, self._edge, self._tokenizer, prompt, tokens, stop_ids=self._chat.stop_ids,
            deadline_s=120, on_text=on_text,
        )  # fmt: skip


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """Index of the first id that is not the same, or is there in one only."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


if __name__ == "__main__":
    run(main)
