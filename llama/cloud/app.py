"""Builds and runs the cloud on one rank, in stages whose order matters.

1. *check*: the flags, against each other, the checkpoint and this machine. Every rank checks, so that all end alike.
2. *read*: sheets, keys, tokenizer, the device's half. Reading changes nothing.
3. *plan memory*: the number of slots and prefixes that fit.
4. *open*: the catalogue and the record. This creates the record's file, so files that are only read come first.
5. *listen*: take the ports. From now on a device may connect; it waits until the model is loaded.
6. *load*: takes minutes. The stages before take seconds, so that errors are reported at once.
7. *warm*: all ranks meet, and the prefix cache is filled. CUDA graphs are captured while the model is loaded.
8. *serve*, until a signal; then close what was opened.

Ranks 1 and up check, load, and then follow rank 0.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from llama import parallel, wire
from llama.addresses import Endpoint
from llama.checkpoint.halves import Half, chat_format_of, check_world_size, read_half, tokenizer_of
from llama.cloud.allow_list import AllowList
from llama.cloud.auth import CloudKeys
from llama.cloud.capacity import Capacity, bytes_per_position, context_of, memory_ceiling, plan
from llama.cloud.catalogue import Catalogue
from llama.cloud.config import CloudConfig
from llama.cloud.event_log import EventLog
from llama.cloud.listening import check_open_to, endpoints_of
from llama.cloud.loading import MAX_ROWS, Models, Process, device_hidden, load
from llama.cloud.metrics_http import MetricsServer
from llama.cloud.model_runner import ModelRunner
from llama.cloud.owners import secret_of
from llama.cloud.prefix_cache import CachedPrefix, HiddenByPrefix, keep, prefixes_of
from llama.cloud.provider import ProviderServices
from llama.cloud.rate_limit import MAX_THREAD_SHARE, RateLimits
from llama.cloud.run_store import RunStore
from llama.cloud.server import Server
from llama.cloud.sheet_publisher import SheetPublisher
from llama.cloud.stop_signals import StopOnSignal, leave_stopping_to_rank_0
from llama.device import cpu_threads, torch_device
from llama.dtypes import DTYPE_NAMES, DTYPES
from llama.errors import MemoryCeilingReached, SplitLlamaError, UsageError
from llama.keys import read_key
from llama.memory_ceiling import own_memory
from llama.process_end import give_stdout_up
from llama.sheets import SheetDirectory, named, read_all
from llama.tokenizer import Tokenizer
from llama.wire import Welcome


def run(config: CloudConfig, models: Models) -> None:
    """Serve until Ctrl-C; after SIGTERM, until the running sessions have ended.

    Raises:
        SplitLlamaError: it cannot start, or another rank is gone.
        MemoryCeilingReached: while it served, the process reached its memory ceiling.
    """
    started, process = time.monotonic(), Process.from_environment()
    checked = check(config, process)
    if process.rank > 0:
        follow(_load(config, checked, models), config.drain_s)
        return
    app = build(config, checked)
    with contextlib.closing(app):
        hidden = _device_hidden(app, models)
        runner = _load(config, checked, models, app.capacity.slots)
        prefixes = _warm(app, runner, hidden)
        serve(app, runner, prefixes, started)


# ---- check


@dataclass(frozen=True)
class Checked:
    """The checked flags, with the values that follow from this checkpoint and this machine.

    Attributes:
        process: this rank.
        half: the cloud half.
        endpoints: the addresses of ``--bind``.
        events: the log.
        device: of this rank.
        welcome: the message that introduces the cloud to devices.
    """

    process: Process
    half: Half
    endpoints: list[Endpoint]
    events: EventLog
    device: torch.device
    welcome: Welcome

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and hidden states."""
        return DTYPES[self.welcome.dtype]


def check(config: CloudConfig, process: Process) -> Checked:
    """Check the flags, and make torch use this rank's threads and device.

    The order of the checks decides which of several errors is reported.

    Raises:
        UsageError: a flag cannot be used with the others, with this checkpoint or on this machine.
        CheckpointError: the directory is not a cloud half, or is cut for another number of ranks.
    """
    half = read_half(config.ckpt_dir, "cloud")
    check_world_size(half, process.world_size)
    max_seq_len = context_of(config.max_seq_len, half)
    config.check("max_batch_size", "kv_cache_gb", "max_waiting", "drain_s", "dtype", "session_idle_s", "retention_days")
    config.check("log_level")
    events = EventLog(config.log_level)
    endpoints = endpoints_of(config.bind)
    config.check("insecure")
    keys = config.key_file is not None
    check_open_to(config.bind, endpoints, keys=keys, insecure=config.insecure, events=events)
    config.check("key_file", "max_sessions_per_key", "max_mb_s_per_key", "max_requests_s_per_key", "max_runs_s_per_key")
    if config.max_memory_gb is not None and own_memory() is None:
        raise UsageError("--max_memory_gb does not work here: this system does not report a process's memory; omit it")
    config.check("publishing")
    device = torch_device(config.device, process.local_rank, process.local_ranks)
    torch.set_num_threads(cpu_threads(config.threads, process.local_ranks))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dtype = config.dtype or DTYPE_NAMES[half.dtype]
    max_rows = min(MAX_ROWS, max_seq_len)
    welcome = Welcome(wire.VERSION, half.fingerprint, dtype, half.args.dim, half.split_layer, max_seq_len, max_rows)
    return Checked(process, half, endpoints, events, device, welcome)


# ---- read, plan memory, open, listen


@dataclass(frozen=True)
class CloudApp:
    """Rank 0, listening, with everything but the model.

    Attributes:
        config: the flags.
        checked: the checked flags.
        edge_half: the device's half, for the prefix cache; None without one.
        capacity: slots and prefixes.
        stores: the open files.
        server: listens, and answers once it serves.
        monitoring: serves the metrics; None without ``--metrics_port``.
        endpoint: the address that the server listens on.
        opened: closes all of these, the last one first.
    """

    config: CloudConfig
    checked: Checked
    edge_half: Half | None
    capacity: Capacity
    stores: Stores
    server: Server
    monitoring: MetricsServer | None
    endpoint: str
    opened: contextlib.ExitStack

    def close(self) -> None:
        """Close everything that :func:`build` opened. A server closes itself after it has served."""
        self.opened.close()


@dataclass(frozen=True)
class Stores:
    """The open files of rank 0, and the services that use them."""

    catalogue: Catalogue | None
    record: RunStore | None
    services: ProviderServices

    def close(self) -> None:
        """Close the services, then the files."""
        self.services.close()
        if self.record is not None:
            self.record.close()
        if self.catalogue is not None:
            self.catalogue.close()


def build(config: CloudConfig, checked: Checked) -> CloudApp:
    """Read, plan memory, open and listen: everything that can fail before minutes of loading.

    Raises:
        SplitLlamaError: a file cannot be used, memory is too small, or a port is in use.
    """
    directory, publisher = _read_sheets(config, checked.events)
    keys = _read_keys(config, checked.events)
    tokenizer = tokenizer_of(checked.half)
    edge_half = None if config.edge_ckpt_dir is None else _read_edge_half(config.edge_ckpt_dir, checked.half)
    prefixes = {} if edge_half is None else prefixes_of(directory, chat_format_of(checked.half, tokenizer))
    capacity = _plan_memory(config, checked, prefixes)
    with contextlib.ExitStack() as opened:
        stores = _open_stores(config, checked, tokenizer, directory, publisher, keys)
        opened.callback(stores.close)
        server = _new_server(config, checked, tokenizer, capacity, stores, keys)
        opened.callback(server.close)
        monitoring = None
        if config.metrics_port is not None:
            monitoring = MetricsServer(config.metrics_port, server.metrics.registry, server.health)
            opened.callback(monitoring.close)
        endpoint = server.bind(config.bind, checked.endpoints)
        return CloudApp(config, checked, edge_half, capacity, stores, server, monitoring, endpoint, opened.pop_all())


def _read_sheets(config: CloudConfig, events: EventLog) -> tuple[SheetDirectory, SheetPublisher | None]:
    if config.sheet_dir is None:
        return SheetDirectory({}), None
    directory = read_all(config.sheet_dir, lambda line: events.warning("sheets", message=line))
    if directory.parties and config.record_file is None:
        parties = named(sorted(directory.parties))
        raise UsageError(
            f"--sheet_dir {config.sheet_dir} has sheets of third parties ({parties}), which require --record_file"
        )
    return directory, SheetPublisher(config.sheet_dir, directory) if config.publishing else None


def _read_keys(config: CloudConfig, events: EventLog) -> CloudKeys | None:
    if config.key_file is None or config.allow_dir is None:
        return None
    own = read_key(config.key_file, "cloud")
    allowed = AllowList(config.allow_dir, lambda line: events.warning("keys", message=line))
    if not len(allowed):
        events.warning("nobody_listed", message=f"--allow_dir {config.allow_dir} has no public key yet")
    return CloudKeys(own, allowed, config.sessions_per_key)


def _read_edge_half(edge_ckpt_dir: str, cloud: Half) -> Half:
    half = read_half(edge_ckpt_dir, "edge")
    if half.fingerprint != cloud.fingerprint:
        raise UsageError(
            f"--edge_ckpt_dir {edge_ckpt_dir} and --ckpt_dir are from different splits; give edge/ and cloud/ of one "
            f"run of split_checkpoint.py"
        )
    return half


def _plan_memory(config: CloudConfig, checked: Checked, prefixes: Mapping[str, Sequence[tuple[int, ...]]]) -> Capacity:
    return plan(
        config.kv_cache_gb,
        config.max_batch_size,
        prefixes,
        position_bytes=bytes_per_position(checked.half, checked.dtype, checked.process.world_size),
        max_seq_len=checked.welcome.max_seq_len,
        events=checked.events,
    )


def _open_stores(
    config: CloudConfig,
    checked: Checked,
    tokenizer: Tokenizer,
    directory: SheetDirectory,
    publisher: SheetPublisher | None,
    keys: CloudKeys | None,
) -> Stores:
    catalogue = None if config.catalogue is None else Catalogue(config.catalogue)
    secret = b"" if keys is None else secret_of(keys.own)
    record = None
    if config.record_file is not None:
        record = RunStore(config.record_file, retention_days=config.days_kept, secret=secret)
    services = ProviderServices.of(
        tokenizer,
        store=record,
        directory=directory,
        catalogue=catalogue,
        publisher=publisher,
        event_log=checked.events,
    )
    return Stores(catalogue, record, services)


def _new_server(
    config: CloudConfig,
    checked: Checked,
    tokenizer: Tokenizer,
    capacity: Capacity,
    stores: Stores,
    keys: CloudKeys | None,
) -> Server:
    return Server(
        tokenizer,
        checked.welcome,
        slots=capacity.slots,
        idle_timeout_s=config.session_idle_s,
        services=stores.services,
        most_waiting=config.max_waiting,
        keys=keys,
        limits=RateLimits(
            bytes_s=config.max_mb_s_per_key * 1e6,
            requests_s=config.max_requests_s_per_key,
            runs_s=config.max_runs_s_per_key,
            thread_share=MAX_THREAD_SHARE,
        ),
        event_log=checked.events,
    )


# ---- load, warm


def _device_hidden(app: CloudApp, models: Models) -> dict[tuple[int, ...], torch.Tensor]:
    """Compute the prefixes as a device would, before the cloud's half takes the memory."""
    if app.edge_half is None or not app.capacity.prefixes:
        return {}
    return device_hidden(models, app.edge_half, app.capacity.prefixes, app.checked.dtype, app.checked.device)


def _load(config: CloudConfig, checked: Checked, models: Models, slots: int = 0) -> ModelRunner:
    graphs, process = config.cuda_graphs, checked.process
    return load(models, checked.half, checked.welcome, process, checked.device, cuda_graphs=graphs, slots=slots)


def _warm(app: CloudApp, runner: ModelRunner, hidden: HiddenByPrefix) -> dict[bytes, CachedPrefix]:
    with _needing_other_ranks():
        parallel.meet()  # from "ready" on, every rank takes a signal as it should
        return keep(runner, app.checked.half.fingerprint, hidden, app.checked.welcome.max_rows)


# ---- serve


def serve(app: CloudApp, runner: ModelRunner, prefixes: Mapping[bytes, CachedPrefix], started: float) -> None:
    """Print that the cloud is ready, serve until a signal, close everything, and print that it has stopped.

    ``started`` is the monotonic time in seconds at which the program began.
    """
    ceiling = memory_ceiling(app.config.max_memory_gb)
    stop = StopOnSignal()
    _tell_ready(app, len(prefixes), started)
    try:
        with _needing_other_ranks():
            app.server.serve(runner, stop.requested, stop.drain_requested, app.config.drain_s, prefixes, ceiling)
    except MemoryCeilingReached:
        parallel.stop()
        raise
    finally:
        app.close()
    parallel.stop()
    _announce("stopped")


def _tell_ready(app: CloudApp, prefixes: int, started: float) -> None:
    half, process, welcome, slots = app.checked.half, app.checked.process, app.checked.welcome, app.capacity.slots
    app.checked.events.info(
        "ready",
        seconds=round(time.monotonic() - started, 1),
        slots=slots,
        context=welcome.max_seq_len,
        ranks=process.world_size,
        pid=os.getpid(),
        metrics="off" if app.monitoring is None else app.monitoring.address,
    )
    _announce(
        f"ready in {time.monotonic() - started:.1f} s: layers {half.split_layer} to {half.args.n_layers - 1} of "
        f"{half.args.n_layers} on {process.world_size} rank{'s' if process.world_size > 1 else ''} "
        f"({app.checked.device.type}, {welcome.dtype}), "
        f"context {welcome.max_seq_len}, {slots} slot{'s' if slots > 1 else ''}, "
        f"{f'{prefixes} prompt prefixes cached, ' if app.edge_half is not None else ''}"
        f"listening on {app.endpoint}, pid {os.getpid()}"
    )


def _announce(line: str) -> None:
    """Print on stdout. If its reader is gone or the disk is full, the cloud continues without stdout."""
    try:
        print(line, flush=True)
    except OSError:
        give_stdout_up()


# ---- the other ranks


def follow(runner: ModelRunner, drain_s: float) -> None:
    """Follow rank 0 until it shuts down. If rank 0 is gone, the process ends with exit code 1."""
    leave_stopping_to_rank_0(drain_s)
    try:
        parallel.meet()
        runner.follow()
        parallel.stop()
    except RuntimeError as err:
        print(f"error: {_why(err, 'rank 0')}; start the cloud again", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # a gloo group with a dead member may abort at a normal exit


@contextlib.contextmanager
def _needing_other_ranks() -> Iterator[None]:
    """Turn the errors of a lost rank into a SplitLlamaError of one line."""
    try:
        yield
    except RuntimeError as err:
        raise SplitLlamaError(f"{_why(err, 'another rank')}; start the cloud again") from None


def _why(err: RuntimeError, other: str) -> str:
    """Return why the ranks cannot continue, in one line. Of gloo's errors, only that the other rank is gone."""
    return f"{other} is gone" if "gloo" in str(err) else str(err).partition("\n")[0]
