"""What a flood costs an honest device: its tokens a second while another listed key sends as fast as it can.

    python -m tests.benchmarks.flooding [--checkpoint_dir .demo/smollm2] [--rounds 5] [--tokens 32] [--nolimits]

A real cloud with keys, real sockets over loopback, float32, greedy, one thread fewer than there are cores. The flooder
is on the same cores, and takes from the others whoever it speaks to: so each flood also has its turn against a socket
that has nothing to do with the cloud, reads everything and says next to nothing. What the flood costs by way of the
cloud is the difference between the two. In every round all have their turn; ratios are taken within it. The honest
device must say the same all the time. Before it asks, the time that the cloud's threads take for the flood alone is
read from the kernel: that figure holds on a busy machine, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import zmq

from llama import parallel, wire
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.command import run
from llama.edge.link import Link
from llama.errors import SplitLlamaError, UsageError
from llama.generation import reply_to
from llama.keys import LinkKeys, link_keys, make_keys
from llama.privacy.preparing import prepare
from llama.privacy.profile import Profile
from llama.prompt import read_prompt
from llama.sampling import Sampling
from llama.wire import DTYPES, Hello, Step, Welcome
from tests.benchmarks.reporting import Aimed, Others, end_cleanly_on_sigterm, machine, progress, versions
from tests.processes import cloud
from tests.support import Peer, frames_of
from tests.whole import load_edge

FLOODS = {
    "hellos": "valid Hellos",
    "steps": "largest Steps, of no session",
    "garbage": "garbage",
    "handshakes": "new connections",
}
NO_LIMITS = "--max_mb_s_per_key", "inf", "--max_requests_s_per_key", "inf"
MOST_SLOWED = 0.9  # of the speed that is left where somebody else is flooded
QUIET = 0.05
SETTLED_S, IDLE_S = 3.0, 2.0  # until a flood has used up what may come at once; then the cloud is watched for so long

_fork = get_context("fork")


@dataclass(frozen=True)
class Turn:
    """One reply.

    Attributes:
        ids: its tokens.
        times: when they came, monotonic seconds.
        messages_s: of the flood meanwhile.
        cores: that the cloud took for the flood alone: its door, and libzmq's thread.
    """

    ids: list[int]
    times: list[float]
    messages_s: float = 0.0
    cores: tuple[float, float] = (0.0, 0.0)

    @property
    def gaps_ms(self) -> list[float]:
        """Between one token and the next."""
        return [1000 * (b - a) for a, b in pairwise(self.times)]

    @property
    def speed(self) -> float:
        """Tokens a second, without the first one's wait."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


def main(
    checkpoint_dir: str = ".demo/smollm2", prompt_file: str = "examples/sheets/birthday.toml", rounds: int = 5,
    tokens: int = 32, connections: int = 4, limits: bool = True,
) -> None:  # fmt: skip
    """Print the figures.

    Args:
        checkpoint_dir: what split_checkpoint.py wrote.
        prompt_file: what the honest device asks.
        rounds: of all floods.
        tokens: of each reply.
        connections: of the flooder, at a time.
        limits: those that cloud_main.py has by default; without, there are none.
    """
    if rounds < 1 or tokens < 4 or connections < 1:
        raise UsageError("--rounds and --connections must be 1 or more, --tokens 4 or more")
    end_cleanly_on_sigterm()
    print(machine())
    print(versions(["torch", "pyzmq"]))
    turns, others = dict[str, list[Turn]](), Others()
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    with tempfile.TemporaryDirectory() as directory:
        for name in ("cloud", "phone", "flooder"):
            make_keys(name, "cloud" if name == "cloud" else "device", directory)
        flags = ["--key_file", f"{directory}/cloud.key", "--allow_dir", directory, "--threads", threads]
        flags += [] if limits else NO_LIMITS
        half = Path(checkpoint_dir) / "cloud"
        phone, flooder = _keys(directory, "phone"), _keys(directory, "flooder")
        with cloud(half, "--dtype", "float32", *flags) as running, _elsewhere(directory) as sink:
            with Link(running.address, deadline_s=120, on_notice=progress, keys=phone) as link:
                device = _Device(checkpoint_dir, prompt_file, link, tokens)
                expected = device.reply().ids
                for round_number in range(1, rounds + 1):
                    for flood in ("", *FLOODS):
                        for address in (sink, running.address) if flood else ("",):
                            name = flood and f"{flood}{' elsewhere' if address == sink else ''}"
                            progress(f"round {round_number} of {rounds}: {name or 'no flood'}")
                            turn = _under(flood, address, flooder, device, connections, running.pid)
                            if turn.ids != expected:
                                raise SplitLlamaError("the device says other tokens under a flood than alone")
                            turns.setdefault(name, []).append(turn)
            share = others.share()
    print(f"\n{Path(checkpoint_dir).name}, float32, greedy, {tokens} tokens, cloud on {threads} thread(s), "
          f"{connections} connections flood, {'default' if limits else 'no'} limits; "
          f"medians of {rounds} rounds\n")  # fmt: skip
    _print(turns)
    print(f"  other processes took {100 * share:.1f} % of the cores meanwhile"
          + ("" if share <= QUIET else ": NOT a quiet machine, do not rely on these figures"))  # fmt: skip


def _print(turns: dict[str, list[Turn]]) -> None:
    alone = [turn.speed for turn in turns[""]]
    print(Aimed("no flood", alone, " tokens/s", 1).line())
    print(f"    {_p95(turns[''])}")
    for flood, what in FLOODS.items():
        here, elsewhere = turns[flood], turns[f"{flood} elsewhere"]
        speeds, speeds_elsewhere = [turn.speed for turn in here], [turn.speed for turn in elsewhere]
        print(Aimed(f"{what}, to another socket", speeds_elsewhere, " tokens/s", 1).line())
        print(f"    {_p95(elsewhere)}")
        print(Aimed(f"{what}, to the cloud", speeds, " tokens/s", 1).line())
        print(f"    {_p95(here)}")
        ratios = [a / b for a, b in zip(speeds, speeds_elsewhere, strict=True)]
        print(Aimed(f"{what}: the cloud / another socket", ratios, "", 2, at_least=MOST_SLOWED).line())
        print(Aimed(f"{what}: the cloud / no flood", [a / b for a, b in zip(speeds, alone, strict=True)], "", 2).line())


def _p95(turns: Sequence[Turn]) -> str:
    gaps = [gap for turn in turns for gap in turn.gaps_ms]
    rate = statistics.median(turn.messages_s for turn in turns)
    door, its_libzmq = (100 * statistics.median(each) for each in zip(*(turn.cores for turn in turns), strict=True))
    told = f"between tokens p50 {statistics.median(gaps):.0f} ms, p95 {statistics.quantiles(gaps, n=20)[-1]:.0f} ms"
    if rate:
        told += f"; {rate:,.0f} messages/s sent, which take {door:.0f} % of a core in the cloud, "
        told += f"{its_libzmq:.0f} % in its libzmq"
    return told


def _keys(directory: str, name: str) -> LinkKeys:
    keys = link_keys(f"{directory}/{name}.key", f"{directory}/cloud.pub", "device")
    assert keys is not None
    return keys


class _Device:
    """The honest one."""

    def __init__(self, checkpoint_dir: str, prompt_file: str, link: Link, tokens: int) -> None:
        torch.set_num_threads(1)
        parallel.start()
        half = read_half(Path(checkpoint_dir) / "edge", "edge")
        self._link, self.welcome, self._n = link, link.hello(), tokens
        self._tokenizer = tokenizer_of(half)
        self._prompt = prepare(
            read_prompt(prompt_file), Profile(), "schema", chat_format_of(half, self._tokenizer), self._tokenizer,
            half.context_length,
        ).outgoing.ids  # fmt: skip
        self._edge = load_edge(checkpoint_dir, DTYPES[self.welcome.dtype])

    def reply(self) -> Turn:
        """The same every time, but for when."""
        times = list[float]()
        reply = reply_to(
            self._prompt, edge=self._edge, link=self._link, welcome=self.welcome, tokenizer=self._tokenizer,
            stop_ids=(), sampling=Sampling(temperature=0), max_gen_len=self._n,
            on_text=lambda _: times.append(time.monotonic()),
        )  # fmt: skip
        return Turn(reply.tokens, times[: len(reply.tokens)])


def _under(flood: str, address: str, keys: LinkKeys, device: _Device, connections: int, cloud: int) -> Turn:
    """A reply while there is a flood; an empty one is none."""
    if not flood:
        return device.reply()
    sent = _fork.Value("q", 0, lock=False)
    with _running(_flood, flood, address, keys, device.welcome, connections, sent):
        time.sleep(SETTLED_S)
        own, its_libzmq = _cpu_s(cloud)
        time.sleep(IDLE_S)
        after = _cpu_s(cloud)
        begun, before = time.monotonic(), sent.value
        turn = device.reply()
        rate = (sent.value - before) / (time.monotonic() - begun)
        return Turn(turn.ids, turn.times, rate, ((after[0] - own) / IDLE_S, (after[1] - its_libzmq) / IDLE_S))


def _cpu_s(pid: int) -> tuple[float, float]:
    """Seconds of computing of a process's threads so far: libzmq's, after all the others'."""
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
def _running(work: Any, *args: Any) -> Iterator[None]:
    """A process of its own; killed at the end."""
    process = _fork.Process(target=work, args=args, daemon=True)
    process.start()
    try:
        yield
    finally:
        assert process.pid is not None and process.is_alive(), f"{work.__name__} has ended"
        os.kill(process.pid, signal.SIGKILL)
        process.join()


@contextlib.contextmanager
def _elsewhere(directory: str) -> Iterator[str]:
    """The address of a socket with the cloud's keys that reads everything."""
    ours, theirs = _fork.Pipe()
    with _running(_read_everything, directory, theirs):
        yield ours.recv()


def _read_everything(directory: str, told: Connection) -> None:
    from llama.keys import read_key

    own = read_key(f"{directory}/cloud.key", "cloud")
    door = zmq.Context().socket(zmq.ROUTER)
    door.setsockopt(zmq.CURVE_SERVER, 1)
    door.setsockopt(zmq.CURVE_SECRETKEY, own.secret.encode())
    door.setsockopt(zmq.RCVHWM, 4)
    told.send(f"tcp://127.0.0.1:{door.bind_to_random_port('tcp://127.0.0.1')}")
    while True:
        peer = door.recv_multipart(copy=False)[0].bytes
        with contextlib.suppress(zmq.Again):
            door.send_multipart([peer, b"", b""], zmq.DONTWAIT)


def _flood(kind: str, address: str, keys: LinkKeys, welcome: Welcome, connections: int, sent: Any) -> None:
    """As fast as it goes; ``sent`` counts."""
    rows = torch.zeros(welcome.max_rows, welcome.dim, dtype=DTYPES[welcome.dtype])
    step = Step(bytes(16), 1, 0, 0, welcome.dtype, welcome.max_rows, welcome.dim)
    hello = [b"", *frames_of(Hello(wire.VERSION))]
    frames = {"steps": [b"", *frames_of(step, rows)], "garbage": [b"", os.urandom(200)]}.get(kind, hello)
    peers = [Peer(address, zmq.DEALER, keys) for _ in range(connections)]
    while True:
        for i, peer in enumerate(peers):
            with contextlib.suppress(zmq.Again):
                peer.socket.send_multipart(frames, zmq.DONTWAIT, copy=kind != "steps")
                sent.value += 1
            if kind == "handshakes":
                if peer.socket.poll(20):  # it is through
                    peer.__exit__()
                    peers[i] = Peer(address, zmq.DEALER, keys)
                continue
            with contextlib.suppress(zmq.Again):
                while True:
                    peer.socket.recv_multipart(zmq.DONTWAIT)


if __name__ == "__main__":
    run(main)
