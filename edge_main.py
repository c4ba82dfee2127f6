"""The device: asks a prompt, with the first layers of the model here and the rest in the cloud.

Used as::

    python edge_main.py --ckpt_dir OUT/edge --cloud tcp://127.0.0.1:5555 --prompt_file FILE
    python edge_main.py … --prompt_id NAME --profile_file profile.toml             (a sheet of the cloud's)
    python edge_main.py … --profile_file profile.toml --web                        (on a page)
"""

from __future__ import annotations

import os

from llama import starting

# How long an OpenMP thread spins for more work before it sleeps; read once, when torch is loaded. Long enough to bridge
# the gaps between a layer's operations, short enough that the half which waits leaves the cores to the other.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if __name__ == "__main__":
    starting.begin()

import torch

from llama import parallel
from llama.checkpoint.halves import Half
from llama.command import run
from llama.dtypes import DTYPES
from llama.edge import app
from llama.edge.config import EdgeConfig
from llama.wire import Welcome
from model_edge import EdgeTransformer, load_edge


def main(
    ckpt_dir: str,
    cloud: str | None = None,
    prompt_file: str | None = None,
    sheet_dir: str | None = None,
    prompt_id: str | None = None,
    profile_file: str | None = None,
    sanitise: str = "schema",
    dry_run: bool = False,
    yes: bool = False,
    plain: bool = False,
    json: bool = False,
    web: bool = False,
    port: int | None = None,
    list_sheets: bool = False,
    temperature: float = 0.6,
    top_p: float = 0.9,
    seed: int = 1,
    max_gen_len: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    deadline: float = 30.0,
    restart_deadline: float = 300.0,
    max_memory_gb: float | None = None,
    key_file: str | None = None,
    cloud_key: str | None = None,
) -> None:
    """Answer a prompt, with the person's data where the prompt asks for it.

    Args:
        ckpt_dir: the edge half that split_checkpoint.py wrote.
        cloud: address of cloud_main.py, tcp://HOST:PORT.
        prompt_file: .txt (your own message), .json (your own dialogue) or .toml (a prompt sheet).
        sheet_dir: a directory of the provider's sheets on this machine, instead of the cloud's own.
        prompt_id: which sheet, NAME or VENDOR/NAME; instead of --prompt_file.
        profile_file: your data, TOML; it stays on this device.
        sanitise: schema replaces what it recognises as secret before it leaves; off sends your words as they are.
        dry_run: print what would leave this device, and stop.
        yes: agree to what the sheet asks for, this time.
        plain: nothing but the reply on stdout, for pipes.
        json: one JSON object on stdout instead of streamed text.
        web: show all of it on a page of this machine's, whose address is printed.
        port: of that page; by default any that is free.
        list_sheets: print which sheets there are, and stop.
        temperature: 0 always takes the likeliest token; higher is more varied.
        top_p: choose among the likeliest tokens that make up this share of the probability.
        seed: the same seed gives the same reply.
        max_gen_len: most tokens of the reply; by default what the sheet says, or what the cloud's context leaves.
        device: where the edge half runs: cpu, cuda or mps.
        threads: CPU threads; by default one per core.
        deadline: seconds of silence, or of being full, after which the cloud is given up; one that lives, but does not
            answer a request, after ten times as long (after four times, when the reply is complete).
        restart_deadline: likewise where the cloud had answered and then went away, or says that it is stopping; when it
            is back, the reply goes on where it was.
        max_memory_gb: GiB of memory at which this device ends, with exit code 3; by default what it has once its half
            is loaded, and 512 MiB or a quarter more. Mapped files do not count, nor does a GPU's memory.
        key_file: this device's private key, NAME.key of llama.keys; the cloud must list it.
        cloud_key: the cloud's public key; no other cloud is spoken to, and nobody can listen.
    """
    app.build(EdgeConfig(**locals()), load).run()  # the flags are its fields


def load(half: Half, welcome: Welcome, device: torch.device) -> EdgeTransformer:
    """Load the edge half in the dtype that the cloud computes in."""
    parallel.start()
    return load_edge(half, DTYPES[welcome.dtype], device)


if __name__ == "__main__":
    run(main)
