"""The cloud: serves the remaining layers of the model to devices.

Used as::

    torchrun --nproc_per_node N cloud_main.py --ckpt_dir OUT/cloud --bind tcp://127.0.0.1:5555
    python cloud_main.py --ckpt_dir OUT/cloud                                  (one rank)
"""

from __future__ import annotations

import math
import os
import signal

from llama import starting
from llama.dtypes import DTYPE_NAMES, DTYPES

# See edge_main.py: a cloud that waits for a device on the same machine must not keep its cores.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if __name__ == "__main__":
    starting.begin()

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

import torch

from llama import parallel, wire
from llama.addresses import Endpoint, NotAnAddress, UnknownHost, stays_here, to_listen
from llama.checkpoint.halves import Half, chat_format_of, check_world_size, load_weights, read_half, tokenizer_of
from llama.cloud.auth import MAX_SESSIONS_PER_KEY, CloudKeys
from llama.cloud.catalogue import Catalogue
from llama.cloud.cuda_graphs import DecodeGraphs
from llama.cloud.event_log import LEVELS, EventLog
from llama.cloud.metrics_http import MetricsServer
from llama.cloud.model_runner import ModelRunner
from llama.cloud.owners import secret_of
from llama.cloud.prefix_cache import SHARE, keep, openings_of, that_fit
from llama.cloud.provider import ProviderServices
from llama.cloud.rate_limit import (
    MAX_MB_S_PER_KEY,
    MAX_REQUESTS_S_PER_KEY,
    MAX_RUNS_S_PER_KEY,
    MAX_THREAD_SHARE,
)
from llama.cloud.run_store import RETENTION_DAYS, RunStore
from llama.cloud.server import Server
from llama.cloud.sheet_publisher import SheetPublisher
from llama.command import give_stdout_up, run
from llama.device import cpu_threads, is_out_of_memory, torch_device
from llama.errors import MemoryCeilingReached, SplitLlamaError, UsageError
from llama.keys import AllowList, read_key
from llama.memory_ceiling import CLOUD_ALLOWANCE, MemoryCeiling, own_memory
from llama.model import KVCache
from llama.sheets import SheetDirectory, named, read_all
from llama.wire import Welcome
from model_cloud import CloudTransformer
from model_edge import load_edge

DESCRIPTORS = 24  # sockets, their wake-ups, the record and its log, weights while they are loaded
MAX_ROWS = 256  # prompt rows per request
MAX_SESSIONS = 1 << 16  # at a time; far beyond what memory holds
USUAL_SESSIONS = 256
GRACE_S = 10  # a rank that was told to end waits so long for rank 0 to say so


def main(
    ckpt_dir: str,
    bind: str = "tcp://127.0.0.1:5555",
    max_seq_len: int | None = None,
    kv_cache_gb: float = 4.0,
    max_batch_size: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    cuda_graphs: bool = True,
    max_waiting: int = 64,
    session_idle_s: float = 120.0,
    drain_s: float = 20.0,
    record_file: str | None = None,
    retention_days: float | None = None,
    sheet_dir: str | None = None,
    publishing: bool = False,
    edge_ckpt_dir: str | None = None,
    catalogue: str | None = None,
    key_file: str | None = None,
    allow_dir: str | None = None,
    max_sessions_per_key: int | None = None,
    insecure: bool = False,
    max_mb_s_per_key: float = MAX_MB_S_PER_KEY,
    max_requests_s_per_key: float = MAX_REQUESTS_S_PER_KEY,
    max_runs_s_per_key: float = MAX_RUNS_S_PER_KEY,
    max_memory_gb: float | None = None,
    log_level: str = LEVELS[0],
    metrics_port: int | None = None,
) -> None:
    """Serve until Ctrl-C; after SIGTERM, until the running sessions have ended.

    Args:
        ckpt_dir: the cloud half that split_checkpoint.py wrote.
        bind: where to listen, tcp://HOST:PORT; tcp://0.0.0.0:PORT is every network of this machine.
        max_seq_len: most tokens of prompt and reply together; by default 2048, or the model's context if less.
        kv_cache_gb: GiB for the sessions' keys and values, on all ranks together; sized at the start, never grown.
        max_batch_size: sessions held at a time; by default as many as --kv_cache_gb has room for, up to 256.
        device: cpu or cuda; by default CUDA where there is a GPU.
        dtype: float32, bfloat16 or float16; by default the checkpoint's.
        threads: CPU threads per rank; by default the cores shared among the ranks.
        cuda_graphs: with one rank on a GPU, bfloat16 or float16: record the passes that decode, and replay them.
        max_waiting: sessions that may wait in line for room.
        session_idle_s: seconds after which an unused session loses its room; its device recovers by itself.
        drain_s: seconds that running sessions have to end after SIGTERM; below torchrun's 30.
        record_file: SQLite file of finished runs, and of third parties' deliveries; by default none is kept.
        retention_days: days after which a run, or a delivery that nobody has collected, is forgotten; by default 30.
        sheet_dir: directory of prompt sheets for devices to fetch; its sub-directories are third parties'.
        publishing: let third parties write their own sheets into --sheet_dir while the cloud runs; needs keys.
        edge_ckpt_dir: the device's half; with it, what the sheets tell the model is computed once for all devices.
        catalogue: SQLite file of the partners' products, from which offers are made; llama.cloud.importing makes it.
        key_file: the cloud's private key, NAME.key of llama.keys; from then on only listed keys are spoken to.
        allow_dir: directory of the public keys that are listed, NAME.pub; read anew whenever it changes.
        max_sessions_per_key: sessions of one key at a time; by default 4.
        insecure: listen on a network without keys; anybody there may ask, and listen.
        max_mb_s_per_key: megabytes a second to and from one key, or without keys one connection; beyond, it waits.
        max_requests_s_per_key: requests a second, likewise; a token is a request.
        max_runs_s_per_key: runs that begin in a second, likewise.
        max_memory_gb: GiB of memory at which the cloud ends, with exit code 3; by default what it has once it is ready,
            and 2 GiB or a quarter more. Mapped files do not count, nor does a GPU's memory.
        log_level: the least that is told of on stderr, info, warning or error.
        metrics_port: port of 127.0.0.1 for /metrics (Prometheus) and /healthz; by default there are none.
    """
    started = time.monotonic()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank, local_ranks = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))

    half = read_half(ckpt_dir, "cloud")
    check_world_size(half, world_size)
    max_seq_len = _max_seq_len(max_seq_len, half)
    if max_batch_size is not None and not 1 <= max_batch_size <= MAX_SESSIONS:
        raise UsageError(f"--max_batch_size {max_batch_size}: give 1 to {MAX_SESSIONS}")
    if not 0 < kv_cache_gb < math.inf:
        raise UsageError(f"--kv_cache_gb {kv_cache_gb}: give GiB above 0")
    if not 0 <= max_waiting <= MAX_SESSIONS:
        raise UsageError(f"--max_waiting {max_waiting}: give 0 to {MAX_SESSIONS}")
    if not 0 <= drain_s < math.inf:
        raise UsageError(f"--drain_s {drain_s}: give seconds, 0 or more")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not supported; use {', '.join(DTYPES)}")
    if not session_idle_s > 0:  # nor NaN
        raise UsageError(f"--session_idle_s {session_idle_s}: give seconds above 0")
    if retention_days is not None and record_file is None:
        raise UsageError("--retention_days is of the record, and there is none; give --record_file, too")
    if retention_days is not None and not retention_days > 0:  # nor NaN
        raise UsageError(f"--retention_days {retention_days}: give days above 0")
    if log_level not in LEVELS:
        raise UsageError(f"--log_level {log_level} is not known; use {', '.join(LEVELS)}")
    events = EventLog(log_level)
    endpoints = _endpoints_of(bind)
    _check_open_to(bind, endpoints, keys=key_file is not None, insecure=insecure, events=events)
    if (key_file is None) != (allow_dir is None):
        raise UsageError("--key_file and --allow_dir belong together: the cloud's own key, and those that it lists")
    if max_sessions_per_key is not None and key_file is None:
        raise UsageError("--max_sessions_per_key is of keys, and there are none; give --key_file and --allow_dir, too")
    if max_sessions_per_key is not None and max_sessions_per_key < 1:
        raise UsageError(f"--max_sessions_per_key {max_sessions_per_key}: give 1 or more")
    for flag, most in (
        ("max_mb_s_per_key", max_mb_s_per_key),
        ("max_requests_s_per_key", max_requests_s_per_key),
        ("max_runs_s_per_key", max_runs_s_per_key),
    ):
        if not most > 0:  # nor NaN
            raise UsageError(f"--{flag} {most}: give a number above 0; inf is no limit")
    if max_memory_gb is not None and own_memory() is None:
        raise UsageError("--max_memory_gb: this system does not say how much memory a process has; leave it away")
    if publishing and (sheet_dir is None or record_file is None or key_file is None):
        raise UsageError(
            "--publishing lets third parties, known by their keys, write sheets into --sheet_dir; give "
            "--sheet_dir, --record_file, --key_file and --allow_dir, too"
        )
    where, compute = torch_device(device, local_rank, local_ranks), DTYPES[dtype] if dtype else half.dtype
    torch.set_num_threads(cpu_threads(threads, local_ranks))
    if where.type == "cuda":
        torch.cuda.set_device(where)

    welcome = Welcome(
        wire.VERSION,
        half.fingerprint,
        DTYPE_NAMES[compute],
        half.args.dim,
        half.split_layer,
        max_seq_len,
        min(MAX_ROWS, max_seq_len),
    )
    if rank > 0:
        _follow(_load(half, welcome, rank, world_size, where, cuda_graphs), drain_s)
        return
    # All before minutes of loading: an unusable file or a port in use is told at once, an early device waits.
    directory = (
        SheetDirectory({})
        if sheet_dir is None
        else read_all(sheet_dir, lambda line: events.warning("sheets", message=line))
    )
    if directory.parties and record_file is None:
        parties = named(sorted(directory.parties))
        raise UsageError(
            f"--sheet_dir {sheet_dir} has sheets of third parties ({parties}), whose deliveries must be "
            f"kept somewhere; give --record_file"
        )
    shelf = SheetPublisher(sheet_dir, directory) if publishing and sheet_dir is not None else None
    keys = _keys(key_file, allow_dir, max_sessions_per_key or MAX_SESSIONS_PER_KEY, events)
    tokenizer = tokenizer_of(half)
    edge_half = None if edge_ckpt_dir is None else _edge_half(edge_ckpt_dir, half)
    every_opening = {} if edge_half is None else openings_of(directory, chat_format_of(half, tokenizer))
    openings, slots = _room(kv_cache_gb, max_batch_size, every_opening, half, max_seq_len, compute, world_size, events)
    products = None if catalogue is None else Catalogue(catalogue)
    secret = b"" if keys is None else secret_of(keys.own)
    record = None
    if record_file is not None:
        record = RunStore(record_file, retention_days=retention_days or RETENTION_DAYS, secret=secret)
    clerk = ProviderServices.of(
        tokenizer, store=record, directory=directory, catalogue=products, publisher=shelf, event_log=events
    )
    server = Server(
        tokenizer,
        welcome,
        slots=slots,
        idle_timeout_s=session_idle_s,
        services=clerk,
        most_waiting=max_waiting,
        keys=keys,
        max_bytes_s=max_mb_s_per_key * 1e6,
        max_requests_s=max_requests_s_per_key,
        max_runs_s=max_runs_s_per_key,
        thread_share=MAX_THREAD_SHARE,
        event_log=events,
    )
    monitoring = None
    if metrics_port is not None:
        monitoring = MetricsServer(metrics_port, server.metrics.registry, server.health)
    endpoint = server.bind(bind, endpoints)
    rows = {} if edge_half is None or not openings else _device_rows(edge_half, openings, compute, where)
    ranks = _load(half, welcome, rank, world_size, where, cuda_graphs, slots)
    with _needing_others():
        parallel.meet()  # from "ready" on, every rank takes a signal as it should
        prefixes = keep(ranks, half.fingerprint, rows, welcome.max_rows)
    ceiling = _ceiling(max_memory_gb)
    stop = _StopOnSignal()
    events.info(
        "ready",
        seconds=round(time.monotonic() - started, 1),
        places=slots,
        context=max_seq_len,
        ranks=world_size,
        pid=os.getpid(),
        metrics="off" if monitoring is None else monitoring.address,
    )
    _announce(
        f"ready in {time.monotonic() - started:.1f} s: layers {half.split_layer} to {half.args.n_layers - 1} of "
        f"{half.args.n_layers} on {world_size} rank{'s' if world_size > 1 else ''} ({where.type}, {welcome.dtype}), "
        f"context {max_seq_len}, room for {slots} session{'s' if slots > 1 else ''}, "
        f"{f'{len(prefixes)} beginnings of prompts computed, ' if edge_half is not None else ''}"
        f"listening on {endpoint}, pid {os.getpid()}"
    )
    try:
        with _needing_others():
            server.serve(ranks, stop.requested, stop.drain_requested, drain_s, prefixes, ceiling)
    except MemoryCeilingReached:
        parallel.stop()
        raise
    finally:
        if monitoring is not None:
            monitoring.close()
        clerk.close()
        if record is not None:
            record.close()
        if products is not None:
            products.close()
    parallel.stop()
    _announce("stopped")


def _announce(line: str) -> None:
    """On stdout, where a cloud that goes on serving may have lost its reader, or a disk its room."""
    try:
        print(line, flush=True)
    except OSError:
        give_stdout_up()


def _edge_half(ckpt_dir: str, cloud: Half) -> Half:
    half = read_half(ckpt_dir, "edge")
    if half.fingerprint != cloud.fingerprint:
        raise UsageError(
            f"--edge_ckpt_dir {ckpt_dir} is not from the same split as --ckpt_dir; give edge/ and "
            f"cloud/ of one run of split_checkpoint.py"
        )
    return half


def _device_rows(
    half: Half, openings: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> dict[tuple[int, ...], torch.Tensor]:
    """What a device would send for prompts that begin so: ``(len(ids), dim)`` each, on the CPU."""
    rows = dict[tuple[int, ...], torch.Tensor]()
    with parallel.alone():
        edge = load_edge(half, dtype, device)
        for ids in openings:
            cache, starts = edge.new_cache(1, len(ids)), range(0, len(ids), MAX_ROWS)
            parts = [edge(torch.tensor([ids[start : start + MAX_ROWS]]), [start], cache)[0] for start in starts]
            rows[ids] = torch.cat(parts).cpu()
    return rows


def _load(
    half: Half, welcome: Welcome, rank: int, world_size: int, device: torch.device, cuda_graphs: bool, slots: int = 0
) -> ModelRunner:
    """This rank's share of the cloud half, and cache room for as many sessions as rank 0 says."""
    # Plans and rows travel through gloo also where the layers reduce through NCCL.
    parallel.start(rank, world_size, "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    dtype, slots = DTYPES[welcome.dtype], parallel.of_rank_0(slots)
    try:
        with parallel.unfilled_weights(dtype):
            model = CloudTransformer(half.args, half.split_layer)
        load_weights(model, half, rank=rank, world_size=world_size, dtype=dtype, device=device, keep_mapped=False)
        model.prepare(for_good=True)
        cache = model.new_cache(slots, welcome.max_seq_len)
        recorded = cuda_graphs and world_size == 1 and DecodeGraphs.suits(model)
        return ModelRunner(model, cache, half.args.dim, DecodeGraphs(model, cache) if recorded else None)
    except RuntimeError as err:
        if not is_out_of_memory(err):
            raise
        raise UsageError(
            f"the model and the caches of {slots} sessions of {welcome.max_seq_len} tokens do not fit on "
            f"{device}; lower --kv_cache_gb or --max_batch_size, or use more ranks"
        ) from None


def _endpoints_of(bind: str) -> list[Endpoint]:
    """What is to be listened to. Whether it is free, and of this machine, is found out when it is.

    Raises:
        UsageError: it is none that could be listened to.
    """
    try:
        return to_listen(bind)
    except NotAnAddress as err:
        why = f": {err}" if str(err) else ""
        raise UsageError(f"--bind {bind} is not an address to listen on{why}; write tcp://HOST:PORT") from None
    except UnknownHost as err:
        raise UsageError(f"--bind {bind}: {err}") from None


def _check_open_to(bind: str, endpoints: Sequence[Endpoint], *, keys: bool, insecure: bool, events: EventLog) -> None:
    """Without keys only this machine itself is listened to, unless the provider says otherwise.

    Raises:
        UsageError: the address is, or may be, of a network; or the flags contradict each other.
    """
    if keys and insecure:
        raise UsageError("--insecure is for a cloud without keys, and --key_file gives it some; leave one away")
    if keys or all(map(stays_here, endpoints)):
        return
    if not insecure:
        raise UsageError(
            f"--bind {bind} is open to a network, where without keys anybody may ask or listen; give "
            f"--key_file and --allow_dir (python -m llama.keys makes them), or --insecure"
        )
    events.warning(
        "insecure",
        message="anybody who reaches this address may use the model, and whoever listens learns what it does",
    )


def _ceiling(gib: float | None) -> MemoryCeiling | None:
    """How much memory this process may have; it has all that it needs by now, but for the work in hand."""
    has = own_memory()
    if has is None:
        return None
    most = has + max(CLOUD_ALLOWANCE, has // 4) if gib is None else gib * 2**30
    if not most > has:  # nor NaN
        raise UsageError(
            f"--max_memory_gb {gib}: it has {has / 2**30:.2f} GiB now, with nothing to do; give more, or "
            f"lower --kv_cache_gb"
        )
    return MemoryCeiling(most, time.monotonic, lambda: own_memory() or 0)


def _keys(key_file: str | None, allow_dir: str | None, max_sessions: int, events: EventLog) -> CloudKeys | None:
    if key_file is None or allow_dir is None:
        return None
    own, allowed = read_key(key_file, "cloud"), AllowList(allow_dir, lambda line: events.warning("keys", message=line))
    if not len(allowed):
        events.warning("nobody_listed", message=f"--allow_dir {allow_dir} lists nobody yet")
    return CloudKeys(own, allowed, max_sessions)


def _max_seq_len(flag: int | None, half: Half) -> int:
    if flag is None:
        return min(2048, half.context_length)
    if not 2 <= flag <= half.context_length:
        raise UsageError(f"--max_seq_len {flag} must lie between 2 and this model's context of {half.context_length}")
    return flag


def _room(
    gib: float,
    most: int | None,
    openings: Mapping[str, Sequence[tuple[int, ...]]],
    half: Half,
    max_seq_len: int,
    dtype: torch.dtype,
    world_size: int,
    events: EventLog,
) -> tuple[list[tuple[int, ...]], int]:
    """Which beginnings of prompts are kept in ``gib`` GiB, and how many sessions have room beside them."""
    each = KVCache.bytes_per_position(half.args.n_layers - half.split_layer, half.args, dtype, world_size)
    positions = int(gib * 2**30) // each
    if positions < max_seq_len:
        raise UsageError(
            f"--kv_cache_gb {gib}: one session of {max_seq_len} tokens takes "
            f"{each * max_seq_len / 2**30:.2f} GiB; give more, or lower --max_seq_len"
        )
    fit = that_fit(openings, max_seq_len, min(int(SHARE * positions), positions - max_seq_len))
    all_of_them = len({ids for of_a_party in openings.values() for ids in of_a_party})
    if len(fit) < all_of_them:
        told = f"--kv_cache_gb {gib} has room for {len(fit)} of {all_of_them} beginnings of prompts; the others are "
        events.warning("cache_small", message=told + "computed anew for each session")
    slots = (positions - sum(map(len, fit))) // max_seq_len
    return fit, min(slots, USUAL_SESSIONS if most is None else most)


class _StopOnSignal:
    """Remembers SIGINT, SIGHUP and SIGTERM instead of ending the process in the middle of a step.

    The first SIGTERM drains; any other signal, or a second one, stops.
    """

    def __init__(self) -> None:
        self._stop = self._drain = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._stop = self._stop or self._drain or number != signal.SIGTERM
        self._drain = True

    def requested(self) -> bool:
        """True once it is to stop at once."""
        return self._stop

    def drain_requested(self) -> bool:
        """True once no session is to be begun any more."""
        return self._drain


def _follow(ranks: ModelRunner, drain_s: float) -> None:
    """ModelRunner 1 …: work until rank 0 shuts down; a signal only starts a timer, since rank 0 gets it too."""

    def wait_for_rank_0(number: int, frame: FrameType | None) -> None:
        drains_s = math.ceil(drain_s) if number == signal.SIGTERM else 0
        signal.alarm(GRACE_S + drains_s)  # its default action ends the process

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, wait_for_rank_0)
    try:
        parallel.meet()
        ranks.follow()
        parallel.stop()
    except RuntimeError as err:
        print(f"error: {_why(err, 'rank 0')}; start the cloud again", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # a gloo group with a dead member may abort at a normal exit


@contextlib.contextmanager
def _needing_others() -> Iterator[None]:
    """Rank 0 among the others: says in one line that they are gone."""
    try:
        yield
    except RuntimeError as err:
        raise SplitLlamaError(f"{_why(err, 'another rank')}; start the cloud again") from None


def _why(err: RuntimeError, other: str) -> str:
    """Why the ranks cannot go on, in one line; gloo's own words for a closed connection would help nobody."""
    return f"{other} is gone" if "gloo" in str(err) else str(err).partition("\n")[0]


if __name__ == "__main__":
    run(main, descriptors=DESCRIPTORS)
