"""How fast the split decodes, beside the uncut model, transformers and the machine's memory.

    python -m tests.benchmarks.decode [--checkpoint_dir .demo/smollm2] [--starts 2] [--rounds 5] [--tokens 64]
        [--save docs/figures/decode.json]

Batch 1, float32, greedy; the split over loopback, its cloud under torchrun. All contenders are alive at once and work
in turn, one at a time, in every round in another order; a ratio is taken within a round, where the machine was the same
for both, and the median of these is what counts. Each contender must say the same tokens.

Where in memory a process comes to lie makes it up to 3 % faster or slower for as long as it lives, and who is loaded
first tends to lie worst. So all are started several times, each time in another order.

The speed is that of decoding alone: the tokens after the first, by the time from the first to the last.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import msgspec

from llama.command import run
from llama.errors import SplitLlamaError, UsageError
from tests.benchmarks import figures as figures_file
from tests.benchmarks.contenders import CONTENDERS, Job, Ready, Turn
from tests.benchmarks.figures import Figures
from tests.benchmarks.reporting import Aimed, Others, end_cleanly_on_sigterm, machine, progress, versions
from tests.processes import ROOT, cloud

Round = dict[str, Turn]

SPEAKING = [name for name in CONTENDERS if name != "reading"]
QUIET = 0.05  # of the cores' time taken by others; threads that spin for each other suffer first, and by far the most


class Worker:
    """A contender's process, loaded and waiting for its turn."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self._process = name, process
        self.ready = msgspec.json.decode(self._answer(), type=Ready)

    def turn(self) -> Turn:
        """Let it work, and wait.

        Raises:
            SplitLlamaError: it has ended.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
        return msgspec.json.decode(self._answer(), type=Turn)

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SplitLlamaError(f"the contender {self.name} has ended; see what it said above")
        return line


def main(
    checkpoint_dir: str = ".demo/smollm2",
    prompt_file: str = str(ROOT / "examples" / "gift_ideas.toml"),
    starts: int = 2,
    rounds: int = 5,
    tokens: int = 64,
    json: str | None = None,
    save: str | None = None,
) -> None:
    """Measure decoding, and print a table.

    Args:
        checkpoint_dir: what split_checkpoint.py wrote, for one rank.
        prompt_file: what all are asked.
        starts: how often all contenders are started anew.
        rounds: after each start; in a round each contender has one turn. One more before them warms up, uncounted.
        tokens: that each contender decodes in a turn.
        json: file for all figures of all rounds.
        save: file for the figures that are published; tests.benchmarks.charts draws them.
    """
    if not (Path(checkpoint_dir) / "cloud").is_dir():
        raise UsageError(f"--checkpoint_dir {checkpoint_dir} is no split checkpoint; make one: make .demo/smollm2")
    if starts < 1 or rounds < 1 or tokens < 2:
        raise UsageError("--starts and --rounds must be 1 or more, --tokens 2 or more")
    figures_file.check_place(save)
    end_cleanly_on_sigterm()
    print(machine(), versions(["torch", "transformers"]), sep="\n", flush=True)
    ready, taken, busy = dict[str, Ready](), list[Round](), list[float]()
    for start in range(starts):
        progress(f"start {start + 1} of {starts}")
        with _all_loaded(checkpoint_dir, prompt_file, tokens, start) as workers:
            _round(workers, 0, rounds)
            others = Others()
            taken += [_round(workers, number, rounds) for number in range(1, rounds + 1)]
            busy.append(others.share())
            ready = {name: worker.ready for name, worker in workers.items()}
    figures = _speeds(ready, taken) + _ratios(ready["uncut"].weight_bytes, taken)
    _report(figures, ready, taken, checkpoint_dir, tokens)
    doubt = "" if max(busy) <= QUIET else ": NOT a quiet machine, do not rely on these figures"
    print(f"  other processes took {100 * max(busy):.1f} % of the cores meanwhile{doubt}")
    if json is not None:
        Path(json).write_bytes(msgspec.json.format(msgspec.json.encode({"ready": ready, "rounds": taken})))
    if save is not None:
        setting = _setting(ready, checkpoint_dir, tokens)
        figures_file.save(published(taken, setting, quiet=max(busy) <= QUIET), save)


@contextlib.contextmanager
def _all_loaded(checkpoint_dir: str, prompt_file: str, tokens: int, start: int) -> Iterator[dict[str, Worker]]:
    """A worker for each contender, by name. The cloud and the split's device come first, at every other start last."""
    alone = [name for name in CONTENDERS if name != "split"]
    with contextlib.ExitStack() as stack:
        workers = dict[str, Worker]()

        def load(names: list[str], address: str) -> None:
            job = Job(str(Path(checkpoint_dir).absolute()), str(Path(prompt_file).absolute()), tokens, address)
            for name in names:
                workers[name] = stack.enter_context(_worker(name, job))

        if start % 2:
            load(alone[::-1], "")
        progress("loading the cloud")
        serving = stack.enter_context(cloud(Path(checkpoint_dir) / "cloud", "--dtype", "float32", ranks=1))
        load(["split"], serving.address)
        if not start % 2:
            load(alone, "")
        yield workers


@contextlib.contextmanager
def _worker(name: str, job: Job) -> Iterator[Worker]:
    """A contender's process, killed at the end: it holds nothing that would have to be put away."""
    progress(f"loading {name}")
    command = [sys.executable, "-m", "tests.benchmarks.contenders", name, msgspec.json.encode(job).decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT) as process:
        try:
            yield Worker(name, process)
        finally:
            process.kill()


def _round(workers: dict[str, Worker], number: int, rounds: int) -> Round:
    """A turn of each; round 0 warms up. Nobody always follows the same one, nor is always first.

    Raises:
        SplitLlamaError: they do not say the same tokens.
    """
    progress(f"round {number} of {rounds}" if number else "warming up")
    shift = number % len(CONTENDERS)
    order = [workers[name] for name in [*CONTENDERS][shift:] + [*CONTENDERS][:shift]]
    turns = {worker.name: worker.turn() for worker in (order if number % 2 else reversed(order))}
    expected = turns["uncut"].ids
    for name in SPEAKING:
        ids = turns[name].ids
        if ids != expected:
            at = next((i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), "the end")
            raise SplitLlamaError(f"{name} says other tokens than the uncut model, from token {at} on; the speeds "
                                  f"cannot be compared")  # fmt: skip
    return turns


def published(taken: list[Round], setting: str, *, quiet: bool) -> Figures:
    """Return the speeds of all contenders that speak, as they are published."""
    return figures_file.measured(
        {name: figures_file.over_rounds([turns[name].per_s for turns in taken]) for name in SPEAKING},
        setting=setting,
        unit="tokens/s",
        rounds=len(taken),
        packages=["torch", "transformers"],
        note="" if quiet else "NOT a quiet machine",
    )


def _setting(ready: dict[str, Ready], checkpoint_dir: str, tokens: int) -> str:
    return (
        f"{Path(checkpoint_dir).name}, float32, batch 1, greedy; {ready['uncut'].prompt_tokens} tokens of prompt, "
        f"{tokens} of reply; {ready['split'].threads} threads"
    )


def _speeds(ready: dict[str, Ready], taken: list[Round]) -> list[Aimed]:
    titles = {
        "split": "split over loopback",
        "uncut": "the same model uncut, one process",
        "transformers": "transformers generate, as it comes",
        "transformers_spinning_less": f"transformers generate, GOMP_SPINCOUNT={ready['split'].spin_count}",
    }
    speeds = [Aimed(titles[name], [turns[name].per_s for turns in taken], " tokens/s", 1) for name in SPEAKING]
    read = Aimed(
        f"memory read ({ready['reading'].note})", [turns["reading"].per_s / 1e9 for turns in taken], " GB/s", 1
    )
    return [*speeds, read]


def _ratios(weight_bytes: int, taken: list[Round]) -> list[Aimed]:
    def over(name: str) -> list[float]:
        return [turns["split"].per_s / turns[name].per_s for turns in taken]

    def share(name: str) -> list[float]:
        return [100 * weight_bytes * turns[name].per_s / turns["reading"].per_s for turns in taken]

    return [
        Aimed("split / uncut", over("uncut"), digits=3, at_least=0.95),
        Aimed("split / transformers as it comes", over("transformers"), digits=3, at_least=1.3),
        Aimed("split / transformers, GOMP_SPINCOUNT as the product's", over("transformers_spinning_less"), digits=3),
        Aimed("split: share of memory bandwidth", share("split"), " %", 1, at_least=60),
        Aimed("uncut: share of memory bandwidth", share("uncut"), " %", 1),
    ]


def _report(
    figures: list[Aimed], ready: dict[str, Ready], taken: list[Round], checkpoint_dir: str, tokens: int
) -> None:
    threads = sorted({r.threads for r in ready.values()})
    print(
        f"{Path(checkpoint_dir).name}, {ready['split'].note}, batch 1, greedy; {ready['uncut'].prompt_tokens} "
        f"tokens of prompt, {tokens} of reply; {' or '.join(map(str, threads))} threads each\n"
        f"medians of {len(taken)} interleaved rounds (least – most); speed: tokens after the first / time from the "
        f"first to the last\n"
    )
    for figure in figures:
        print(figure.line())
    parts = [turn.ms for turn in (turns["split"] for turns in taken) if turn.ms is not None]
    device, network, over_there = (median(values) for values in zip(*parts, strict=True))
    print(f"\n  a token of the split: device {device:.2f} ms, network {network:.2f} ms, cloud {over_there:.2f} ms")
    print(f"  weights read per token: {ready['uncut'].weight_bytes / 1e6:.0f} MB (all but the embeddings' other rows)")
    print(f"  transformers' {ready['transformers'].note}; the same {tokens} tokens from all in every round")


if __name__ == "__main__":
    run(main)
