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
        cuda_graphs: with one rank on a GPU, bfloat16 or float16: decode by CUDA graphs.
        max_waiting: sessions that may wait for a slot.
        session_idle_s: seconds after which an unused session loses its slot; its device recovers by itself.
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
    config = CloudConfig(**locals())  # the parameters, and nothing else yet
    app.run(config, Models(new_cloud=CloudTransformer, load_edge=load_edge))


if __name__ == "__main__":
    run(main, descriptors=DESCRIPTORS)
