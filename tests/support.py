"""Small random halves, a real server over them in a thread, and a peer that sends whatever it is told to."""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import zmq

from llama import parallel, wire
from llama.cloud.allow_list import AllowList
from llama.cloud.auth import CloudKeys
from llama.cloud.event_log import EventLog
from llama.cloud.model_runner import ModelRunner
from llama.cloud.prefix_cache import keep
from llama.cloud.provider import ProviderServices
from llama.cloud.rate_limit import NO_LIMITS, RateLimits
from llama.cloud.run_store import RunStore
from llama.cloud.server import Server
from llama.command import run
from llama.keys import LinkKeys, link_keys, make_keys, read_key
from llama.kv_cache import KVCache
from llama.model_args import ModelArgs
from llama.sampler import sample
from llama.sampling_params import SamplingParams
from llama.stages import StageClock
from llama.tensor_frames import hidden_to_frame
from llama.tokenizer import Tokenizer
from llama.wire import Close, Error, Finish, Open, Opened, Reply, Request, Step, Tokens, Welcome
from model_cloud import CloudTransformer
from model_edge import EdgeTransformer

ROOT = Path(__file__).resolve().parent.parent
ARGS = ModelArgs(dim=64, n_layers=4, n_heads=4, n_kv_heads=2, vocab_size=514, multiple_of=32)
FINGERPRINT = bytes(range(32))
MAX_SEQ_LEN, MAX_ROWS = 64, 16
GREEDY = SamplingParams(temperature=0.0)
TIMEOUT_MS = 30_000  # far more than any answer takes; reached only when a test is about to fail


class WatchedCloud(CloudTransformer):
    """The real cloud half, which counts the steps computed and can be held at the beginning of one."""

    def __init__(self, args: ModelArgs, split_layer: int) -> None:
        super().__init__(args, split_layer)
        self.steps = 0
        self.computing, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def forward(
        self,
        h: torch.Tensor,
        start_pos: Sequence[int],
        cache: KVCache,
        want: int,
        clock: StageClock | None = None,
        rows: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """As ``CloudTransformer.forward``."""
        self.steps += 1
        self.computing.set()
        assert self.may_go_on.wait(TIMEOUT_MS / 1000)
        return super().forward(h, start_pos, cache, want, clock, rows)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Steps begin, but don't end, until this is left."""
        self.computing.clear()
        self.may_go_on.clear()
        try:
            yield
        finally:
            self.may_go_on.set()


class Halves:
    """Both halves of a small random model, in float32, cut after layer 1; ``spoil`` may change the cloud's weights."""

    def __init__(self, seed: int = 0, spoil: Callable[[CloudTransformer], None] = lambda cloud: None) -> None:
        parallel.start()
        with parallel.unfilled_weights(torch.float32):
            self.edge, self.cloud = EdgeTransformer(ARGS, 1), WatchedCloud(ARGS, 1)
        generator = torch.Generator().manual_seed(seed)
        for half in (self.edge, self.cloud):
            half.requires_grad_(False)
            for name, weight in half.named_parameters():
                if "norm" in name:
                    weight.fill_(1.0)
                else:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
        spoil(self.cloud)
        for half in (self.edge, self.cloud):
            half.prepare(for_good=True)

    def rows(self, ids: Sequence[int]) -> torch.Tensor:
        """What a device would send for all of ``ids``: ``(T, dim)``."""
        rows: torch.Tensor = self.edge(torch.tensor([list(ids)]), [0], self.edge.new_cache(1, len(ids)))
        return rows[0]

    def tokens(
        self, prompt: Sequence[int], n: int, sampling: SamplingParams = GREEDY, chunk: int = MAX_ROWS
    ) -> list[int]:
        """The first ``n`` ids of the reply, computed here without any server or socket."""
        edge_cache, cloud_cache = self.edge.new_cache(1, MAX_SEQ_LEN), self.cloud.new_cache(1, MAX_SEQ_LEN)
        ids, fed = list(prompt), 0
        while len(ids) < len(prompt) + n:
            new = ids[fed : fed + chunk] if fed < len(prompt) else ids[fed:]
            h = self.edge(torch.tensor([new]), [fed], edge_cache)
            logits = CloudTransformer.forward(self.cloud, h, [fed], cloud_cache, 1)
            fed += len(new)
            if fed >= len(prompt):
                ids.append(sample(logits[0, 0], sampling, fed - len(prompt)))
        return ids[len(prompt) :]


class Peer:
    """A raw socket of any kind that speaks to the cloud. REQ by default; a DEALER writes its own envelope."""

    def __init__(self, endpoint: str, kind: int = zmq.REQ, keys: LinkKeys | None = None) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        if keys is not None:
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret.encode())
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.identity.public.encode())
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, keys.cloud.public.encode())
        self.socket.connect(endpoint)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close(linger=0)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def send_request(self, request: Request, rows: torch.Tensor | None = None) -> None:
        self.send(*frames_of(request, rows))

    def receive_bytes(self) -> bytes:
        """The reply's one frame; a DEALER's empty frame before it is taken off."""
        assert self.socket.poll(TIMEOUT_MS), "no reply"
        body: bytes
        *envelope, body = self.socket.recv_multipart()
        assert envelope in ([], [b""])
        return body

    def receive(self) -> Reply:
        """The reply, decoded as any device would."""
        return wire.decode_reply(self.receive_bytes())

    def exchange(self, *frames: bytes) -> Reply:
        """These frames, and the reply to them."""
        self.send(*frames)
        return self.receive()

    def exchange_bytes(self, *frames: bytes) -> bytes:
        """These frames, and the reply's one frame."""
        self.send(*frames)
        return self.receive_bytes()

    def ask(self, request: Request, rows: torch.Tensor | None = None) -> Reply:
        """A well-formed request, and its reply."""
        return self.exchange(*frames_of(request, rows))

    def refusal(self, request: Request, rows: torch.Tensor | None = None) -> str:
        """The code with which a request is refused."""
        return code_of(self.ask(request, rows))


def frames_of(request: Request, rows: torch.Tensor | None = None) -> list[bytes]:
    """A request as it goes over the wire."""
    return [wire.encode(request)] if rows is None else [wire.encode(request), bytes(hidden_to_frame(rows))]


def code_of(reply: Reply) -> str:
    """The code of an Error, or the kind of any other reply."""
    return str(reply.code) if isinstance(reply, Error) else type(reply).__name__


_run_ids = itertools.count(1)


def open_request(prompt_tokens: int = 5, sampling: SamplingParams = GREEDY, **changes: object) -> Open:
    """An Open of a new run."""
    fields: dict[str, object] = {
        "run_id": next(_run_ids).to_bytes(16, "big"),
        "fingerprint": FINGERPRINT,
        "prompt_tokens": prompt_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop_ids": (),
    }
    return Open(**(fields | changes))  # type: ignore[arg-type]


def step_of(session: bytes, seq: int, position: int, rows: torch.Tensor, want: int = 1) -> Step:
    """The header that belongs to ``rows``."""
    return Step(session, seq, position, want, "float32", rows.shape[0], rows.shape[1])


class Served:
    """A real server in a thread, and what tests need to know about it."""

    def __init__(
        self,
        halves: Halves,
        tokenizer: Tokenizer,
        slots: int = 4,
        idle_timeout_s: float = 120.0,
        record: RunStore | None = None,
        services: ProviderServices | None = None,
        drain_s: float = 20.0,
        most_waiting: int = 0,
        address: str = "tcp://127.0.0.1:*",
        keys: CloudKeys | None = None,
        limits: RateLimits = NO_LIMITS,
        prefixes: Sequence[Sequence[int]] = (),
        log_level: str = "warning",
    ) -> None:
        events = EventLog(log_level)
        self.halves, self.prefixes = halves, prefixes
        self.cache = halves.cloud.new_cache(slots, MAX_SEQ_LEN)
        welcome = Welcome(wire.VERSION, FINGERPRINT, "float32", ARGS.dim, 1, MAX_SEQ_LEN, MAX_ROWS)
        self.server = Server(
            tokenizer,
            welcome,
            slots=slots,
            idle_timeout_s=idle_timeout_s,
            services=services or ProviderServices.of(tokenizer, store=record, event_log=events),
            most_waiting=most_waiting,
            keys=keys,
            limits=limits,
            event_log=events,
        )
        self.welcome = welcome
        self.endpoint = self.server.bind(address)
        self.stop, self._drain, self._drain_s = threading.Event(), threading.Event(), drain_s
        self.failures: list[BaseException] = []
        self.thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        try:
            runner = ModelRunner(self.halves.cloud, self.cache, ARGS.dim)
            rows = {tuple(ids): self.halves.rows(ids) for ids in self.prefixes}
            prefixes = keep(runner, FINGERPRINT, rows, MAX_ROWS)
            self.server.serve(runner, self.stop.is_set, self._drain.is_set, self._drain_s, prefixes)
        except BaseException as err:  # looked at by whoever stops it
            self.failures.append(err)

    def __enter__(self) -> Served:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.halves.cloud.may_go_on.set()
        self.thread.join()
        assert not self.failures

    def drain(self) -> None:
        """As SIGTERM does."""
        self._drain.set()

    def peer(self, kind: int = zmq.REQ, keys: LinkKeys | None = None) -> Peer:
        return Peer(self.endpoint, kind, keys)

    def open(self, peer: Peer, request: Open) -> bytes:
        """A session; waits while rows of the cache are still being cleared."""
        while True:
            reply = peer.ask(request)
            if isinstance(reply, Opened):
                return reply.session
            assert code_of(reply) == "busy", reply
            assert self.thread.is_alive()

    @contextmanager
    def session(self, peer: Peer, request: Open | None = None, keys: LinkKeys | None = None) -> Iterator[bytes]:
        """A session that is closed at the end, by a socket of its own."""
        session = self.open(peer, open_request() if request is None else request)
        try:
            yield session
        finally:
            with self.peer(keys=keys) as other:
                assert code_of(other.ask(Close(session, 1))) == "Closed"

    def run(
        self,
        prompt: Sequence[int],
        n: int,
        sampling: SamplingParams = GREEDY,
        chunk: int = MAX_ROWS,
        keys: LinkKeys | None = None,
    ) -> list[int]:
        """A whole honest run over one REQ socket, written only with ``llama.wire``."""
        with self.peer(keys=keys) as peer, self.session(peer, open_request(len(prompt), sampling), keys) as session:
            edge_cache = self.halves.edge.new_cache(1, MAX_SEQ_LEN)
            ids, fed, seq = list(prompt), 0, 0
            while len(ids) < len(prompt) + n:
                new = ids[fed : fed + chunk] if fed < len(prompt) else ids[fed:]
                rows = self.halves.edge(torch.tensor([new]), [fed], edge_cache)[0]
                want = int(fed + len(new) >= len(prompt))
                seq += 1
                tokens = peer.ask(step_of(session, seq, fed, rows, want), rows)
                assert isinstance(tokens, Tokens) and len(tokens.ids) == want, tokens
                fed += len(new)
                ids += tokens.ids
            final = peer.ask(Finish(session, seq + 1, n))
            assert isinstance(final, wire.Final) and final.usage.output_tokens == n
            return ids[len(prompt) :]


class Keys:
    """A directory of keys: the cloud's, and of whoever is made; who is listed has a copy in ``allowed``."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.allowed = directory, directory / "allowed"
        self.allowed.mkdir()
        make_keys("cloud", "cloud", directory)

    def make(self, name: str, role: str = "device", listed: bool = True) -> LinkKeys:
        """A new pair, and what its owner needs to connect."""
        make_keys(name, role, self.directory)
        if listed:
            self.list(name)
        keys = link_keys(str(self.directory / f"{name}.key"), str(self.directory / "cloud.pub"), role)
        assert keys is not None
        return keys

    def list(self, name: str) -> None:
        (self.allowed / f"{name}.pub").write_bytes((self.directory / f"{name}.pub").read_bytes())

    def remove(self, name: str) -> None:
        (self.allowed / f"{name}.pub").unlink()

    def of_the_cloud(self, max_sessions: int = 4) -> CloudKeys:
        return CloudKeys(read_key(str(self.directory / "cloud.key"), "cloud"), AllowList(self.allowed), max_sessions)


def event_of(line: str) -> dict[str, str]:
    """A line of ``llama.cloud.event_log`` as any reader of logfmt takes it apart; time and level, too."""
    fields, rest = dict[str, str](), line.removesuffix("\n")
    while rest:
        name, _, rest = rest.partition("=")
        assert re.fullmatch("[a-z_]+", name), line
        value: str
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:]
        else:
            value = rest.partition(" ")[0]
            rest = rest[len(value) :]
            assert value and not set(value) & set('="\\') and value.isascii() and value.isprintable(), line
        assert not rest or (rest[0] == " " and len(rest) > 1), line
        fields[name], rest = value, rest[1:]
    assert list(fields)[:3] == ["time", "level", "event"], line
    return fields


def without_counts(log: str) -> str:
    """A cloud's log without its own times and counts, in whose digits many a number is found by chance."""
    return re.sub(r"\b(time|pid|\w*sessions?\w*|seconds|\w*tokens|places|context|ranks|metrics)=[0-9]\S*", "", log)


def written(directory: Path, files: Mapping[str, str]) -> Path:
    """A directory with these files."""
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True, parents=True)
        (directory / name).write_text(text)
    return directory


# ---- processes


def exit_code(main: Callable[..., None], *flags: str) -> int:
    """Of a command line that is run to its end in this process."""
    try:
        run(main, flags)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def run_main(script: str, *flags: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """One of the command lines, to its end."""
    return subprocess.run(
        [sys.executable, script, *flags],
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        timeout=timeout,
        capture_output=True,
        check=False,
    )


class Process:
    """A command line that keeps running; its lines can be waited for, and it never outlives the test."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.out, self.err = list[str](), list[str]()
        self._came: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            lines.append(line)
            self._came.put(None)
        self._came.put(None)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # the group of its own that it was started in
        except ProcessLookupError:
            pass
        self.process.wait()
        for reader in self._readers:
            reader.join()

    def line_with(self, text: str) -> str:
        """The first line of either stream that holds ``text``, as soon as it comes."""
        deadline = time.monotonic() + 60
        while True:
            for line in [*self.out, *self.err]:
                if text in line:
                    return line
            assert time.monotonic() < deadline and any(r.is_alive() for r in self._readers), (self.out, self.err)
            try:
                self._came.get(timeout=1)
            except queue.Empty:
                continue

    def ended(self) -> int:
        """The exit code, once it is there."""
        code = self.process.wait(60)
        for reader in self._readers:
            reader.join()
        return code

    def signal(self, number: int) -> None:
        """To this process only."""
        self.process.send_signal(number)

    @property
    def stdout(self) -> str:
        return "".join(self.out)

    @property
    def stderr(self) -> str:
        return "".join(self.err)


def wait_for_end(pids: Sequence[int]) -> None:
    """Until none of these processes runs; they need not be children of ours."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([fd], [], [], 60)[0], f"{pid} still runs"
        finally:
            os.close(fd)


def listening_ports(pid: int) -> set[int]:
    """TCP ports on which a process listens, according to the kernel."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
