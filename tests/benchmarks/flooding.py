"""What one hostile key costs an honest device: its tokens a second, and the longest gap between two of them.

    python -m tests.benchmarks.flooding [--checkpoint_dir .demo/smollm2] [--rounds 3] [--tokens 48] [--before CHECKOUT]

A real cloud with keys, sheets, a record and a catalogue; real sockets over loopback; float32, greedy; one thread fewer
than there are cores. In every round the honest device asks alone, then beside an honest device that asks the same
without a pause, then beside each hostile key of ``tests/benchmarks/hostile.py``, which stays within its budgets. The
ratios are to its speed beside the honest one, within the round. The honest device must say the same all the time.

Everybody is on the same cores, so a hostile key also costs what its own process takes; that is printed, and so is what
the cloud's threads take for it alone. Of each type of message the dearest of some candidates is found out at first.

``--before`` is another checkout of this program: the same is done to its cloud, in the same rounds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from llama import parallel
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.client.link import Link
from llama.cloud.importing import import_products
from llama.command import run
from llama.edge.generation import GenerationSettings, generate_reply
from llama.errors import SplitLlamaError, UsageError
from llama.keys import LinkKeys, link_keys, make_keys
from llama.privacy.preparing import prepare
from llama.privacy.profile import Profile
from llama.prompt import read_prompt
from llama.sampling_params import SamplingParams
from llama.tokenizer import Tokenizer
from model_edge import EdgeTransformer
from tests.benchmarks.hostile import VENDOR, Hostile, dearest
from tests.benchmarks.reporting import Aimed, Others, end_cleanly_on_sigterm, machine, progress, versions
from tests.processes import ROOT, Cloud, cloud
from tests.whole import load_edge

ROLES = {
    "Hello": "device", "Open": "device", "Step": "device", "Close": "device", "ListSheets": "device",
    "FetchSheet": "device", "Collect": "vendor", "Acknowledge": "vendor", "Publish": "vendor", "Withdraw": "vendor",
    "Forget": "device", "Status": "operator",
}  # fmt: skip
SESSIONS = {
    "heavy steps": Hostile.heavy_steps,
    "fresh prompts": Hostile.fresh_prompts,
    "chunks of one row": Hostile.chunks_of_one_row,
    "damaged steps": Hostile.damaged_steps,
    "dear decoding": Hostile.dear_decoding,
    "empty runs": Hostile.empty_runs,
    "dearest Finishes": Hostile.dear_finishes,
    "largest Steps, repeated": Hostile.repeated_steps,
    "new connections": Hostile.new_connections,
}
HONEST = "an honest device"
KEPT = 0.7  # of the speed beside an honest device
MOST_PASSES = 5.0  # that decode, alone, in the longest gap
QUIET = 0.05
SETTLED_S, IDLE_S = 4.0, 1.0  # until a burst is used up; then the cloud is watched for so long

_fork = get_context("fork")


@dataclass(frozen=True)
class Turn:
    """One reply.

    Attributes:
        ids: its tokens.
        times: when they came, monotonic seconds.
        messages_s: that the others sent meanwhile.
        cores: that the cloud's own threads took for the others alone, libzmq's thread, and the process that sends.
    """

    ids: list[int]
    times: list[float]
    messages_s: float = 0.0
    cores: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def longest_gap_s(self) -> float:
        """Between one token and the next."""
        return max(b - a for a, b in pairwise(self.times))

    @property
    def pass_s(self) -> float:
        """From one token to the next, as a rule."""
        return statistics.median(b - a for a, b in pairwise(self.times))

    @property
    def speed(self) -> float:
        """Tokens a second, without the first one's wait."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


def main(
    checkpoint_dir: str = ".demo/smollm2", prompt_file: str = "examples/sheets/birthday.toml", rounds: int = 3,
    tokens: int = 48, before: str | None = None,
) -> None:  # fmt: skip
    """Print the figures.

    Args:
        checkpoint_dir: what split_checkpoint.py wrote.
        prompt_file: what the honest device asks.
        rounds: of all.
        tokens: of each reply.
        before: another checkout, whose cloud is measured beside this one's.
    """
    if rounds < 1 or tokens < 8:
        raise UsageError("--rounds must be 1 or more, --tokens 8 or more")
    end_cleanly_on_sigterm()
    print(machine())
    print(versions(["torch", "pyzmq", "msgspec"]))
    others, checkpoint = Others(), Path(checkpoint_dir).absolute()
    checkouts = {"now": ROOT} | ({} if before is None else {"before": Path(before).absolute()})
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    with tempfile.TemporaryDirectory() as directory:
        keys = _keys(Path(directory))
        with contextlib.ExitStack() as stack:
            clouds = {
                name: stack.enter_context(_cloud(checkpoint, Path(directory) / name, Path(directory), root, threads))
                for name, root in checkouts.items()
            }
            device = stack.enter_context(contextlib.closing(
                _Device(_asks(checkpoint, prompt_file, tokens), keys["phone"])
            ))  # fmt: skip
            kinds = _kinds(clouds, keys, checkpoint)
            turns = _rounds(clouds, kinds, device, keys, checkpoint, rounds)
        share = others.share()
    print(f"\n{checkpoint.name}, float32, greedy, {tokens} tokens, clouds on {threads} thread(s); "
          f"medians of {rounds} rounds\n")  # fmt: skip
    for name in clouds:
        print(f"the cloud {name}:")
        _print({kind: turns[name, kind] for kind in ("", HONEST, *kinds)})
    print(f"  other processes took {100 * share:.1f} % of the cores meanwhile"
          + ("" if share <= QUIET else ": NOT a quiet machine, do not rely on these figures"))  # fmt: skip


# ---- what is measured


def _rounds(
    clouds: dict[str, Cloud], kinds: dict[str, tuple[str, Any]], device: _Device, keys: dict[str, LinkKeys],
    checkpoint: Path, rounds: int,
) -> dict[tuple[str, str], list[Turn]]:  # fmt: skip
    """Every turn, by cloud and load."""
    turns = dict[tuple[str, str], list[Turn]]()
    expected = list[int]()
    for number in range(1, rounds + 1):
        for name, running in clouds.items():
            device.goes_to(running.address)
            for kind in ("", HONEST, *kinds):
                progress(f"round {number} of {rounds}, {name}: {kind or 'alone'}")
                if not kind:
                    turn = device.reply()
                elif kind == HONEST:
                    turn = _beside(device, running.pid, _ask_on, running.address, keys["tablet"], device.asks)
                else:
                    role, work = kinds[kind]
                    turn = _beside(device, running.pid, _attack, running.address, keys[role], checkpoint, work)
                expected = expected or turn.ids
                if turn.ids != expected:
                    raise SplitLlamaError("the device says other tokens beside others than alone")
                turns.setdefault((name, kind), []).append(turn)
    return turns


def _kinds(
    clouds: dict[str, Cloud], keys: dict[str, LinkKeys], checkpoint: Path
) -> dict[str, tuple[str, Callable[[Hostile, Any], None]]]:  # fmt: skip
    """What a hostile key may do: its role, and the work; the dearest candidate of each type of message."""
    kinds = dict[str, tuple[str, Callable[[Hostile, Any], None]]]()
    print("\nthe dearest message of each type, in microseconds of the cloud's own threads:")
    running = clouds.get("before", clouds["now"])  # where they were dearest
    for kind, role in ROLES.items():
        hostile = Hostile(running.address, keys[role], checkpoint / "edge")
        name, seconds = dearest(hostile, kind, lambda: _cpu_s(running.pid)[0])
        print(f"  {kind:<12} {name:<48} {1e6 * seconds:8.0f}")

        def work(hostile: Hostile, sent: Any, kind: str = kind, name: str = name) -> None:
            hostile.again_and_again(hostile.candidates()[kind][name], sent)

        kinds[f"{kind}: {name}"] = (role, work)
    return kinds | {kind: (f"device-{number}", work) for number, (kind, work) in enumerate(SESSIONS.items())}


def _beside(device: _Device, cloud: int, work: Any, *args: Any) -> Turn:
    """A reply beside somebody else."""
    sent = _fork.Value("q", 0, lock=False)
    with _running(work, *args, sent) as senders:
        time.sleep(SETTLED_S)
        own, its_libzmq = _cpu_s(cloud)
        theirs = sum(_cpu_s(senders))
        time.sleep(IDLE_S)
        after, their_after = _cpu_s(cloud), sum(_cpu_s(senders))
        begun, before = time.monotonic(), sent.value
        turn = device.reply()
        rate = (sent.value - before) / (time.monotonic() - begun)
        cores = (after[0] - own) / IDLE_S, (after[1] - its_libzmq) / IDLE_S, (their_after - theirs) / IDLE_S
        return Turn(turn.ids, turn.times, rate, cores)


def _attack(address: str, keys: LinkKeys, checkpoint: Path, work: Callable[[Hostile, Any], None], sent: Any) -> None:
    torch.set_num_threads(1)
    work(Hostile(address, keys, checkpoint / "edge"), sent)


def _ask_on(address: str, keys: LinkKeys, asks: _Asks, sent: Any) -> None:
    """Another honest device, which asks the same again and again."""
    device = _Device(asks, keys)
    device.goes_to(address)
    while True:
        sent.value += len(device.reply().ids)


@dataclass(frozen=True)
class _Asks:
    """What honest devices ask, and with what."""

    tokenizer: Tokenizer
    prompt: list[int]
    edge: EdgeTransformer
    tokens: int


def _asks(checkpoint: Path, prompt_file: str, tokens: int) -> _Asks:
    torch.set_num_threads(1)
    parallel.start()
    half = read_half(checkpoint / "edge", "edge")
    tokenizer = tokenizer_of(half)
    prompt = prepare(
        read_prompt(prompt_file), Profile(), "schema", chat_format_of(half, tokenizer), tokenizer, half.context_length
    ).outgoing.ids
    return _Asks(tokenizer, list(prompt), load_edge(checkpoint, torch.float32), tokens)


class _Device:
    """An honest one."""

    def __init__(self, asks: _Asks, keys: LinkKeys) -> None:
        self.asks, self._keys = asks, keys
        self._link: Link | None = None

    def goes_to(self, address: str) -> None:
        """From now on it asks this cloud."""
        self.close()
        self._link = Link(address, deadline_s=120, on_notice=progress, keys=self._keys)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    def reply(self) -> Turn:
        """The same every time, but for when."""
        assert self._link is not None
        times, asks = list[float](), self.asks
        reply = generate_reply(
            asks.prompt, edge=asks.edge, link=self._link, welcome=self._link.hello(), tokenizer=asks.tokenizer,
            settings=GenerationSettings(SamplingParams(temperature=0), stop_ids=(), max_gen_len=asks.tokens),
            on_text=lambda _: times.append(time.monotonic()),
        )  # fmt: skip
        return Turn(reply.tokens, times[: len(reply.tokens)])


# ---- what is printed


def _print(turns: dict[str, list[Turn]]) -> None:
    alone, beside = turns[""], turns[HONEST]
    passes = [turn.pass_s for turn in alone]
    print(Aimed("alone", [turn.speed for turn in alone], " tokens/s", 1).line())
    print(Aimed(f"beside {HONEST}", [turn.speed for turn in beside], " tokens/s", 1).line())
    print(Aimed("  its longest gap, in passes", _gaps(beside, passes), "", 1).line())
    for kind, loaded in turns.items():
        if kind in ("", HONEST):
            continue
        rate, cores = statistics.median(turn.messages_s for turn in loaded), [turn.cores for turn in loaded]
        own, its_libzmq, theirs = (100 * statistics.median(each) for each in zip(*cores, strict=True))
        ratios = [a.speed / b.speed for a, b in zip(loaded, beside, strict=True)]
        print(Aimed(kind, ratios, " of that", 2, at_least=KEPT).line())
        print(Aimed("  its longest gap, in passes", _gaps(loaded, passes), "", 1, at_most=MOST_PASSES).line())
        print(f"    {rate:,.0f} messages/s; of a core: {theirs:.0f} % their sender, {own:.0f} % the cloud, "
              f"{its_libzmq:.0f} % its libzmq")  # fmt: skip


def _gaps(turns: list[Turn], passes: list[float]) -> list[float]:
    return [turn.longest_gap_s / seconds for turn, seconds in zip(turns, passes, strict=True)]


# ---- processes


def _keys(directory: Path) -> dict[str, LinkKeys]:
    """The cloud's, two devices', and those of the hostile ones, by role; all are listed in ``directory``."""
    owners = {"cloud": "cloud", "phone": "device", "tablet": "device", "device": "device", VENDOR: "vendor",
              "operator": "operator"}  # fmt: skip
    # What one leaves behind must not count for the next.
    owners |= {f"device-{number}": "device" for number in range(len(SESSIONS))}
    for name, role in owners.items():
        make_keys(name, role, directory)
    keys = dict[str, LinkKeys]()
    for name, role in owners.items():
        if role != "cloud":
            made = link_keys(str(directory / f"{name}.key"), str(directory / "cloud.pub"), role)
            assert made is not None
            keys["vendor" if name == VENDOR else name] = made
    return keys


@contextlib.contextmanager
def _cloud(checkpoint: Path, own: Path, keys: Path, root: Path, threads: int) -> Iterator[Cloud]:
    """With all that a provider has."""
    shutil.copytree(ROOT / "examples" / "sheets", own / "sheets")
    long = "\n".join("# a long sheet " + "x" * 60 for _ in range(800))
    (own / "sheets" / VENDOR / "large.toml").write_text(f'{long}\nquestions = ["Which?"]\n')
    import_products(ROOT / "examples" / "catalogue.jsonl", own / "products.sqlite")
    with cloud(
        checkpoint / "cloud", "--dtype", "float32", "--key_file", keys / "cloud.key", "--allow_dir", keys, "--threads",
        threads, "--sheet_dir", own / "sheets", "--publishing", "--record_file", own / "runs.sqlite", "--catalogue",
        own / "products.sqlite", "--max_batch_size", 40, "--log_level", "error", root=root,
    ) as running:  # fmt: skip
        yield running


def _cpu_s(pid: int) -> tuple[float, float]:
    """Seconds of computing of a process's threads so far: of all others, then of libzmq's."""
    own = libzmqs = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, _, fields = (task / "stat").read_text().rpartition(")")
        seconds = sum(map(int, fields.split()[11:13])) / os.sysconf("SC_CLK_TCK")
        if "ZMQbg/IO" in name:
            libzmqs += seconds
        else:
            own += seconds
    return own, libzmqs


@contextlib.contextmanager
def _running(work: Any, *args: Any) -> Iterator[int]:
    """A process of its own, killed at the end; its number."""
    process = _fork.Process(target=work, args=args, daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield process.pid
    finally:
        assert process.pid is not None and process.is_alive(), f"{work.__name__} has ended"
        os.kill(process.pid, signal.SIGKILL)
        process.join()


if __name__ == "__main__":
    run(main)
