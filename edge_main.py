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
    ckpt_dir: str | None = None,
    cloud: str | None = None,
    prompt_file: str | None = None,
    sheet_dir: str | None = None,
    prompt_id: str | None = None,
    profile_file: str | None = None,
    sanitise: str = "schema",
    dry_run: bool = False,
    strict: bool = False,
    yes: bool = False,
    plain: bool = False,
    json: bool = False,
    web: bool = False,
    port: int | None = None,
    list_sheets: bool = False,
    history: str | None = None,
    show_history: bool = False,
    forget: str | None = None,
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
    """Answer a prompt, with your data where the prompt asks for it. Secrets are replaced before anything is sent.

    Args:
        ckpt_dir: Directory of the edge half, from split_checkpoint.py. Only --show_history and --forget work without
            it.
        cloud: Address of the cloud, tcp://HOST:PORT. Only --dry_run, --list_sheets and --show_history work without it.
        prompt_file: File of the prompt. A .txt file is your message. A .json file is your dialogue, a list of objects
            with role and content. A .toml file is a sheet.
        sheet_dir: Directory of sheets on this machine. By default sheets come from the cloud.
        prompt_id: Sheet to ask. NAME is the provider's, VENDOR/NAME a third party's. Not with --prompt_file.
        profile_file: Your profile, a TOML file. It stays on this device.
        sanitise: Mode of the sanitiser, schema or off. With schema, it replaces the secrets that it recognises before
            anything leaves this device. With off, your words leave it unchanged, after a warning.
        dry_run: Print the exact text that would leave this device, and exit. Words that look personal and would leave
            as they are are listed on stderr. It needs no consent. It needs a cloud only for a sheet of the cloud.
        strict: Refuse a prompt while words that look personal would leave as they are.
        yes: Agree to what the sheet asks for, and to words that look personal, this time. For scripts.
        plain: Print only the reply on stdout. For pipes.
        json: Print one JSON object instead of text. Its fields are text (restored), text_sent (with tags),
            tags_restored, tags_left, tokens and prompt_tokens (ids), stop_reason, timing, offers, copy (what became of
            a third party's copy), run_id (for --forget), and stays (words that look personal and left as they are).
            With --dry_run: text, prompt_tokens, prompt_id, tags, fields and stays.
        web: Show the run on a page of this machine. The program prints the address of the page.
        port: Port of the page, 1 to 65535, or 0 for any free port. Requires --web. By default any free port.
        list_sheets: Print the ids of the sheets, and exit.
        history: File that keeps what left this device in each run, and what became of it. It has tags and forms, no
            values. By default PROFILE.history.jsonl if that file exists; otherwise nothing is kept.
        show_history: Print the history, the newest run first, and exit. With --json, as JSON.
        forget: Id of a run that the cloud shall forget. The cloud deletes its record, and the third party's copy if it
            was not collected. With keys, only the key that made the run can ask.
        temperature: Sampling temperature, 0 to 100. 0 always takes the likeliest token; higher values vary more.
        top_p: Sample among the likeliest tokens that make up this share of the probability, 0 to 1.
        seed: Seed of the sampling, 0 to 2**63-1. The same seed gives the same reply.
        max_gen_len: Most tokens of the reply, 1 or more. By default the sheet's limit, or the rest of the context.
        device: Torch device of the edge half, cpu, cuda or mps.
        threads: CPU threads, 1 to 4096. By default one per core.
        deadline: Seconds that the cloud may be silent or busy. Then the program gives up. If heartbeats arrive but a
            request stays unanswered, it gives up after 10 times as long, or 4 times once the reply is complete.
        restart_deadline: Seconds, likewise, for a cloud that has answered before and went away, or that says it is
            stopping. When it is back, the reply continues where it was.
        max_memory_gb: GiB of its own memory at which the program ends, with exit code 3. By default its memory once
            the edge half is loaded, plus 512 MiB or a quarter, whichever is more. Mapped files and GPU memory do not
            count.
        key_file: Private key of this device, NAME.key from llama.keys. The cloud must list the public key. Requires
            --cloud_key.
        cloud_key: Public key file of the cloud. The program talks to no other cloud, and the link is encrypted.
            Requires --key_file.
    """
    app.build(EdgeConfig(**locals()), load).run()  # the flags are its fields


def load(half: Half, welcome: Welcome, device: torch.device) -> EdgeTransformer:
    """Load the edge half in the dtype that the cloud computes in."""
    parallel.start()
    return load_edge(half, DTYPES[welcome.dtype], device)


if __name__ == "__main__":
    run(main)
