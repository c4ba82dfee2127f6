"""The cloud's settings: each flag with its unit and bounds, and which flags need or exclude each other.

Knows: the flags. Does not know: the checkpoint, the devices of this machine, torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from llama.bounds import TIMEOUT, Bound, bounds_of
from llama.cloud.auth import MAX_SESSIONS_PER_KEY
from llama.cloud.event_log import LEVELS
from llama.cloud.rate_limit import MAX_MB_S_PER_KEY, MAX_REQUESTS_S_PER_KEY, MAX_RUNS_S_PER_KEY
from llama.cloud.run_store import RETENTION_DAYS
from llama.errors import UsageError
from llama.wire import DTYPE_BYTES

MAX_SESSIONS = 1 << 16  # at a time; far beyond what memory holds


_DTYPE = Bound(f"one of {', '.join(DTYPE_BYTES)}", one_of=tuple(DTYPE_BYTES))
_LEVEL = Bound(f"one of {', '.join(LEVELS)}", one_of=LEVELS)
_GIB = Bound("a finite number of GiB greater than 0", above=0, finite=True)
_DRAIN = Bound("a finite number of seconds, 0 or more", at_least=0, finite=True)
PerSecond = Annotated[float, Bound("greater than 0, or inf for no limit", above=0)]


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """The flags of ``cloud_main.py``, under their names and with their defaults.

    A value that depends on the checkpoint or on this machine is None until ``llama.cloud.app`` determines it. Each
    field has its bounds. Those of ``max_seq_len``, ``device``, ``threads``, ``bind`` and ``metrics_port`` depend on
    more than the flag; other modules check them.
    """

    # The model
    ckpt_dir: str  # directory: the cloud half that split_checkpoint.py wrote
    device: str | None = None  # cpu or cuda; None: CUDA where there is a GPU
    dtype: Annotated[str | None, _DTYPE] = None  # None: the checkpoint's
    threads: int | None = None  # of the CPU, per rank; None: the cores shared among the ranks
    cuda_graphs: bool = True  # one rank on a GPU captures graphs of steps that decode, and replays them

    # Capacity
    max_seq_len: int | None = None  # tokens of prompt and reply; None: 2048, or the model's context if less
    kv_cache_gb: Annotated[float, _GIB] = 4.0  # GiB, all ranks together
    # slots; None: as many as kv_cache_gb holds, up to 256
    max_batch_size: Annotated[int | None, Bound(f"between 1 and {MAX_SESSIONS}", at_least=1, at_most=MAX_SESSIONS)] = (
        None
    )
    # sessions that queue for a slot
    max_waiting: Annotated[int, Bound(f"between 0 and {MAX_SESSIONS}", at_least=0, at_most=MAX_SESSIONS)] = 64
    session_idle_s: Annotated[float, TIMEOUT] = 120.0  # then the slot is free again
    drain_s: Annotated[float, _DRAIN] = 20.0  # torchrun kills after 30
    max_memory_gb: float | None = None  # GiB of this process, then it ends with exit code 3

    # What the provider keeps and hands out
    record_file: str | None = None  # SQLite; None: no run is kept
    retention_days: Annotated[float | None, Bound("greater than 0 days", above=0)] = None  # None: RETENTION_DAYS
    sheet_dir: str | None = None  # directory of prompt sheets; None: none are handed out
    publishing: bool = False  # third parties write sheets into sheet_dir
    edge_ckpt_dir: str | None = None  # the device's half, for the prefix cache; None: no prefix cache
    catalogue: str | None = None  # SQLite; None: no offers

    # The network, and what one key may have
    bind: str = "tcp://127.0.0.1:5555"  # tcp://HOST:PORT
    key_file: str | None = None  # the cloud's private key; None: every program that reaches it is served
    allow_dir: str | None = None  # directory of the public keys that are served
    insecure: bool = False  # listen on a network without keys
    max_sessions_per_key: Annotated[int | None, Bound("1 or more", at_least=1)] = None  # None: MAX_SESSIONS_PER_KEY
    max_mb_s_per_key: PerSecond = MAX_MB_S_PER_KEY  # megabytes a second, both ways; beyond, its requests wait
    max_requests_s_per_key: PerSecond = MAX_REQUESTS_S_PER_KEY  # requests a second; a token is a request
    max_runs_s_per_key: PerSecond = MAX_RUNS_S_PER_KEY  # runs that begin in a second

    # Log and metrics
    log_level: Annotated[str, _LEVEL] = LEVELS[0]  # the least that is logged on stderr
    metrics_port: int | None = None  # of 127.0.0.1; None: no metrics, 0: any free port

    @property
    def sessions_per_key(self) -> int:
        """Sessions of one key at a time."""
        return self.max_sessions_per_key or MAX_SESSIONS_PER_KEY

    @property
    def days_kept(self) -> float:
        """Days after which a run is forgotten."""
        return self.retention_days or RETENTION_DAYS

    def check(self, *flags: str) -> None:
        """Check these flags one after the other: each against the others, then against its own bounds.

        Raises:
            UsageError: about the first flag that is wrong.
        """
        beside_others, bounds = check_together(self), bounds_of(CloudConfig)
        for flag in flags:
            if flag in beside_others:
                raise UsageError(beside_others[flag])
            if flag in bounds:
                bounds[flag].check(flag, getattr(self, flag))


def check_together(config: CloudConfig) -> dict[str, str]:
    """Return the error of each flag that lacks one it requires, or that stands beside one it excludes."""
    errors = dict[str, str]()
    if config.retention_days is not None and config.record_file is None:
        errors["retention_days"] = "--retention_days requires --record_file"
    if config.insecure and config.key_file is not None:
        errors["insecure"] = "--insecure and --key_file cannot be combined; omit one of them"
    if config.key_file is not None and config.allow_dir is None:
        errors["key_file"] = "--key_file requires --allow_dir"
    if config.key_file is None and config.allow_dir is not None:
        errors["key_file"] = "--allow_dir requires --key_file"
    if config.max_sessions_per_key is not None and config.key_file is None:
        errors["max_sessions_per_key"] = "--max_sessions_per_key requires --key_file and --allow_dir"
    if config.publishing and None in (config.sheet_dir, config.record_file, config.key_file):
        errors["publishing"] = "--publishing requires --sheet_dir, --record_file, --key_file and --allow_dir"
    return errors
