"""How many tokens a second many devices get from one cloud, together and each, beside what one device gets alone.

    python -m tests.benchmarks.serving [--checkpoint_dir .demo/smollm2] [--rounds 3] [--tokens 48]
        [--save docs/figures/serving.json]

A real cloud, real sockets over loopback, float32, greedy; a process with one thread for every device, on the same cores
as the cloud. In every round all numbers of devices have their turn. The speed is that of decoding together: the tokens
between the moment when the last device has its first token and the moment when the first one has its last. Every
device must say, token for token, what the first one says when it is alone.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from llama import parallel
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.client.link import Link
from llama.command import run
from llama.dtypes import DTYPES
from llama.edge.generation import GenerationSettings, generate_reply
from llama.errors import SplitLlamaError, UsageError
from llama.privacy.preparing import prepare
from llama.privacy.profile import Profile
from llama.prompt import read_prompt
from llama.sampling_params import SamplingParams
from tests.benchmarks import figures as figures_file
from tests.benchmarks.figures import Figures
from tests.benchmarks.reporting import Aimed, Others, end_cleanly_on_sigterm, machine, progress, versions
from tests.processes import cloud
from tests.whole import load_edge

DEVICES = (1, 2, 4, 8, 16, 32)
AIM_AT_8 = 3.5
QUIET = 0.05


def main(
    checkpoint_dir: str = ".demo/smollm2", prompt_file: str = "examples/sheets/birthday.toml", rounds: int = 3,
    tokens: int = 48, devices: int = DEVICES[-1], save: str | None = None,
) -> None:  # fmt: skip
    """Print the figures.

    Args:
        checkpoint_dir: what split_checkpoint.py wrote.
        prompt_file: what every device asks.
        rounds: of all numbers of devices.
        tokens: of each reply.
        devices: the largest number at a time.
        save: file for the figures that are published; tests.benchmarks.charts draws them.
    """
    if rounds < 1 or tokens < 4 or devices < 1:
        raise UsageError("--rounds and --devices must be 1 or more, --tokens 4 or more")
    figures_file.check_place(save)
    end_cleanly_on_sigterm()
    numbers = [n for n in DEVICES if n <= devices]
    print(machine())
    print(versions(["torch", "pyzmq"]))
    taken = dict[int, list[tuple[float, list[float]]]]()
    others = Others()
    with cloud(Path(checkpoint_dir) / "cloud", "--dtype", "float32", "--max_batch_size", numbers[-1]) as serving:
        fork = get_context("fork")
        torch.set_num_threads(1)  # before the first operation: no team of threads that a fork would lose
        crew = list[Connection]()
        processes = []
        try:
            for _ in range(numbers[-1]):
                ours, theirs = fork.Pipe()
                process = fork.Process(
                    target=_device, args=(theirs, checkpoint_dir, prompt_file, serving.address, tokens), daemon=True
                )
                process.start()
                crew.append(ours)
                processes.append(process)
            progress(f"{len(crew)} devices are loading")
            expected = _turn(crew[:1])[0][1]
            for round_number in range(1, rounds + 1):
                for n in numbers:
                    progress(f"round {round_number} of {rounds}: {n} devices")
                    turns = _turn(crew[:n])
                    if any(ids != expected for _, ids in turns):
                        raise SplitLlamaError("a device says other tokens in a batch than alone")
                    taken.setdefault(n, []).append(_figures([times for times, _ in turns]))
            share = others.share()  # while the devices live: the time of those that have ended counts as others'
        finally:
            for process in processes:
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                process.join()
    print(f"\n{Path(checkpoint_dir).name}, float32, greedy, {tokens} tokens each; medians of {rounds} rounds\n")
    for n in numbers:
        print(Aimed(f"{n} devices together", [speed for speed, _ in taken[n]], " tokens/s", 1).line())
    for n in numbers[1:]:
        ratios = [many / one for (many, _), (one, _) in zip(taken[n], taken[1], strict=True)]
        print(Aimed(f"{n} devices / 1", ratios, "", 2, at_least=AIM_AT_8 if n == 8 else None).line())
    for n in numbers:
        gaps = [1000 * gap for _, each in taken[n] for gap in each]
        print(f"  between tokens, {n} devices: p50 {statistics.median(gaps):.0f} ms, "
              f"p95 {statistics.quantiles(gaps, n=20)[-1]:.0f} ms")  # fmt: skip
    print(f"  other processes took {100 * share:.1f} % of the cores meanwhile"
          + ("" if share <= QUIET else ": NOT a quiet machine, do not rely on these figures"))  # fmt: skip
    if save is not None:
        together = {n: [speed for speed, _ in each] for n, each in taken.items()}
        setting = f"{Path(checkpoint_dir).name}, float32, greedy, {tokens} tokens each"
        figures_file.save(published(together, setting, rounds, quiet=share <= QUIET), save)


def published(together: Mapping[int, Sequence[float]], setting: str, rounds: int, *, quiet: bool) -> Figures:
    """Return the tokens a second that so many devices get together, as they are published."""
    return figures_file.measured(
        {str(devices): figures_file.over_rounds(speeds) for devices, speeds in together.items()},
        setting=setting,
        unit="tokens/s",
        rounds=rounds,
        packages=["torch", "pyzmq"],
        note="" if quiet else "NOT a quiet machine",
    )


def _turn(crew: Sequence[Connection]) -> list[tuple[list[float], list[int]]]:
    """When each device's tokens came, in seconds on this machine's clock, and which they were."""
    for one in crew:
        one.send(None)
    answers = list[tuple[list[float], list[int]]]()
    for one in crew:
        try:
            answers.append(one.recv())
        except EOFError:
            raise SplitLlamaError("a device has ended; see what it said above") from None
    return answers


def _figures(times: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
    """Tokens a second while all decode, and the seconds between one token of a device's and its next."""
    begin, end = max(t[0] for t in times), min(t[-1] for t in times)
    if end <= begin:
        raise SplitLlamaError("the first device had ended before the last one began; give more --tokens")
    tokens = sum(begin < moment <= end for t in times for moment in t)
    gaps = [b - a for t in times for a, b in pairwise(t) if a >= begin and b <= end]
    return tokens / (end - begin), gaps


def _device(orders: Connection, checkpoint_dir: str, prompt_file: str, address: str, tokens: int) -> None:
    """One device: a reply whenever it is told to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parallel.start()
    half = read_half(Path(checkpoint_dir) / "edge", "edge")
    tokenizer = tokenizer_of(half)
    prompt = prepare(
        read_prompt(prompt_file), Profile(), "schema", chat_format_of(half, tokenizer), tokenizer, half.context_length
    ).outgoing.ids
    with Link(address, deadline_s=120, on_notice=lambda _: None) as link:
        welcome = link.hello()
        edge = load_edge(checkpoint_dir, DTYPES[welcome.dtype])
        while True:
            orders.recv()
            times = list[float]()

            def on_text(_: str, times: list[float] = times) -> None:
                times.append(time.monotonic())

            reply = generate_reply(
                prompt, edge=edge, link=link, welcome=welcome, tokenizer=tokenizer,
                settings=GenerationSettings(SamplingParams(temperature=0), stop_ids=(), max_gen_len=tokens),
                on_text=on_text,
            )  # fmt: skip
            orders.send((times[: len(reply.tokens)], reply.tokens))


if __name__ == "__main__":
    run(main)
