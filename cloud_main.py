"""The cloud: serves the remaining layers of the model to devices.

Used as::

    torchrun --nproc_per_node N cloud_main.py --ckpt_dir OUT/cloud --bind tcp://127.0.0.1:5555
    python cloud_main.py --ckpt_dir OUT/cloud                                  (one rank)
"""

from __future__ import annotations

import os

from llama import starting

# See edge_main.py: a cloud that waits for a device on the same machine must not keep its cores.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if __name__ == "__main__":
    starting.begin()

from llama.cloud import app
from llama.cloud.config import CloudConfig
from llama.cloud.event_log import LEVELS
from llama.cloud.loading import Models
from llama.cloud.rate_limit import MAX_MB_S_PER_KEY, MAX_REQUESTS_S_PER_KEY, MAX_RUNS_S_PER_KEY
from llama.command import run
from model_cloud import CloudTransformer
from model_edge import load_edge

DESCRIPTORS = 24  # sockets, their wake-ups, the record and its log, weights while they are loaded


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
    """Serve until Ctrl-C. After SIGTERM, begin no session, and end once the running replies have ended.

    Args:
        ckpt_dir: Directory of the cloud half, from split_checkpoint.py.
        bind: Address to listen on, tcp://HOST:PORT. HOST is an IPv4 address, an [IPv6] address, a name or a network
            interface. tcp://0.0.0.0:PORT is all of IPv4, tcp://[::]:PORT is all networks.
        max_seq_len: Most tokens of prompt and reply together, from 2 to the model's context. By default 2048, or the
            model's context if that is less.
        kv_cache_gb: GiB of KV cache, on all ranks together. It holds as many slots of --max_seq_len tokens as fit. It
            is allocated at the start and never grows.
        max_batch_size: Most sessions at a time (slots), 1 to 65536. By default as many as --kv_cache_gb holds, up to
            256.
        device: Torch device, cpu or cuda. By default CUDA where there is a GPU.
        dtype: Data type of the computation, float32, bfloat16 or float16. By default the checkpoint's.
        threads: CPU threads per rank, 1 to 4096. By default the ranks of this machine share its cores. One fewer is
            faster if another program keeps a core busy.
        cuda_graphs: Capture CUDA graphs of decoding steps at the start, and replay them. This applies to one rank on
            a GPU (Ampere or newer) in bfloat16 or float16.
        max_waiting: Sessions that may queue (FIFO) for a slot, 0 to 65536. Further ones get the answer busy.
        session_idle_s: Seconds after which an unused session loses its slot. Its device recovers by itself.
        drain_s: Seconds that running replies have to end after SIGTERM. Keep it below 30, when torchrun kills the
            ranks.
        record_file: SQLite file of the record. It has a row per finished run (ids, times, counts, offers, the reply
            with its tags), and third parties' deliveries. It is made if it does not exist. By default there is no
            record.
        retention_days: Days after which a run, or a delivery that no vendor has collected, is deleted. Requires
            --record_file. By default 30.
        sheet_dir: Directory of sheets for devices. Its sub-directories are third parties', and require --record_file.
            By default there are no sheets.
        publishing: Let third parties publish their own sheets into --sheet_dir while the cloud runs. Requires
            --sheet_dir, --record_file, --key_file and --allow_dir.
        edge_ckpt_dir: Directory of the edge half of the same split. With it, the cloud computes the prefixes of the
            sheets' prompts once, at the start.
        catalogue: SQLite file of the partners' products, from llama.cloud.importing. Offers are made from it. By
            default there are no offers.
        key_file: Private key of the cloud, NAME.key from llama.keys. With it, the cloud answers only the keys in
            --allow_dir. Requires --allow_dir.
        allow_dir: Directory of the allowed public keys, NAME.pub. The cloud reads it again when it changes. Requires
            --key_file.
        max_sessions_per_key: Most sessions of one key at a time, 1 or more. Further ones get the answer busy.
            Requires --key_file. By default 4.
        insecure: Listen on a network without keys. Every machine there can then use the model, and can read the
            traffic. Not with --key_file.
        max_mb_s_per_key: Megabytes per second to and from one key, or without keys one connection. Twice as much may
            come at once. Beyond that, its requests wait. inf means no limit.
        max_requests_s_per_key: Requests per second, likewise. A token is a request.
        max_runs_s_per_key: New runs per second, likewise.
        max_memory_gb: GiB of its own memory at which the cloud ends, with exit code 3. By default its memory once it is
            ready, plus 2 GiB or a quarter, whichever is more. Mapped files and GPU memory do not count.
        log_level: Lowest level of the log on stderr, info, warning or error.
        metrics_port: Port of 127.0.0.1 for /metrics (Prometheus) and /healthz, 1 to 65535, or 0 for any free port. The
            log's event ready names it. By default there are no metrics.
    """
    config = CloudConfig(**locals())  # the parameters, and nothing else yet
    app.run(config, Models(new_cloud=CloudTransformer, load_edge=load_edge))


if __name__ == "__main__":
    run(main, descriptors=DESCRIPTORS)
