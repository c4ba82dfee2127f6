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

import sys

import torch

from llama import memory_ceiling, parallel
from llama.checkpoint.halves import Half
from llama.client.link import Link
from llama.command import check_patience, end_if_signalled, run
from llama.device import cpu_threads, torch_device
from llama.dtypes import DTYPES
from llama.edge import consent, terminal
from llama.edge.asking import Device, SheetSource
from llama.edge.generation import MAY_BE_HANDED_ON
from llama.errors import UsageError
from llama.keys import link_keys
from llama.privacy.profile import Profile, read_profile
from llama.privacy.sanitiser import MODES, Mode
from llama.prompt import Found
from llama.sampling_params import SamplingParams
from llama.sheets import Sheet
from llama.wire import Welcome
from model_edge import EdgeTransformer, load_edge

SHEET_DEADLINE_S = 5.0  # who looks at a page waits less patiently for a sheet than who starts a program


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
    sampling = _sampling(temperature, top_p, seed)
    if max_gen_len is not None and max_gen_len < 1:
        raise UsageError(f"--max_gen_len {max_gen_len} leaves nothing to generate; give 1 or more")
    check_patience("deadline", deadline)
    check_patience("restart_deadline", restart_deadline)
    if sanitise not in MODES:
        raise UsageError(f"--sanitise {sanitise} is not known; give {' or '.join(MODES)}")
    mode: Mode = "off" if sanitise == "off" else "schema"
    if not (dry_run or list_sheets):
        _needed(cloud)
    keys = link_keys(key_file, cloud_key, "device")
    if port is not None and not web:
        raise UsageError("--port is of the page, and there is none; give --web, too")
    if port is not None and not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: give 1 to 65535, or 0 for any free one")
    for flag, given in (
        ("list_sheets", list_sheets),
        ("dry_run", dry_run),
        ("yes", yes),
        ("plain", plain),
        ("json", json),
    ):
        if web and given:
            raise UsageError(f"--web and --{flag} exclude each other: the page shows all of it, and asks by itself")
    where = torch_device(device)
    torch.set_num_threads(cpu_threads(threads))

    if prompt_id is not None and prompt_file is not None:
        raise UsageError("--prompt_file and --prompt_id exclude each other; --help lists all flags")
    ceiling = memory_ceiling.of_a_client(max_memory_gb, memory_ceiling.DEVICE_WORDS)
    source = SheetSource(
        cloud, prompt_file, sheet_dir, min(deadline, SHEET_DEADLINE_S) if web else deadline, keys, ceiling,
        end_if_signalled,
    )  # fmt: skip
    device_half = Device(ckpt_dir, lambda half, welcome: _load(half, welcome, where))
    if list_sheets:
        terminal.show_sheets(source.entries())
        return
    if web:
        from llama.edge.sitting import Sitting  # a web server's worth of modules, for those who want one
        from llama.edge.web import serve

        sitting = Sitting(
            device_half, source, _needed(cloud), profile_file=profile_file, mode=mode, sampling=sampling,
            max_gen_len=max_gen_len, deadline_s=deadline, restart_deadline_s=restart_deadline,
            prompt_id=prompt_id or "", keys=keys, ceiling=ceiling,
        )  # fmt: skip
        serve(sitting, port or 0)
        return
    if prompt_id is None and prompt_file is None:
        raise UsageError("either --prompt_file must be given, or --prompt_id; --list_sheets shows which there are")
    found = source.find(prompt_id or "")
    profile = _profile(profile_file, found)
    screen = terminal.Terminal(plain=plain or json)
    if mode == "off":
        screen.notice("warning: --sanitise off: your words and fields leave this device as they are; whoever receives "
                      "them can read them")  # fmt: skip
    prepared = device_half.prepare(found, profile, mode)
    tags = prepared.sanitiser.tags
    for caution in prepared.cautions:
        screen.notice(f"look again: {caution}")
    if isinstance(found.prompt, Sheet):
        if missing := [name for name in found.prompt.asks_for if profile.find(name) is None]:
            screen.notice(f"the sheet asks for {', '.join(missing)}, which your profile does not have")
        if profile_file is not None and not dry_run:

            def ask(question: str) -> bool | None:
                if screen.has_keyboard():
                    screen.show_prompt(prepared.dialog, tags, asking=True)
                return screen.ask(question)

            consent.require(found, profile, profile_file, mode, yes=yes, ask=ask, notice=screen.notice)
    if dry_run:
        terminal.show_dry_run(prepared.outgoing.text)
        if tags and sys.stderr.isatty():
            screen.notice(f"known here only: {terminal.legend(tags)}")
        screen.notice(f"nothing was sent; a run sends the rows of these {len(prepared.outgoing.ids)} tokens and of the "
                      f"reply's, the prompt id '{found.prompt_id}', and the sampling settings")  # fmt: skip
        return

    def begin() -> None:
        screen.show_prompt(prepared.dialog, tags)
        screen.begin_reply()

    complete = False

    def on_finish() -> None:
        nonlocal complete
        complete = True

    with Link(
        _needed(cloud), deadline_s=deadline, on_notice=screen.notice, while_waiting=end_if_signalled, keys=keys,
        restart_deadline_s=restart_deadline, ceiling=ceiling,
    ) as link:  # fmt: skip
        welcome = device_half.meet(link)
        try:
            answer = device_half.ask(
                link, welcome, found, profile, prepared, sampling=sampling, max_gen_len=max_gen_len, on_begin=begin,
                on_text=screen.show_text if not json else lambda text: None, on_finish=on_finish,
            )  # fmt: skip
        except KeyboardInterrupt:
            if complete:
                screen.notice(MAY_BE_HANDED_ON)
            raise
    if json:
        terminal.show_json(answer)
        return
    screen.show_answer(answer, found.party, tags, raw=mode == "off", max_seq_len=welcome.max_seq_len)


def _needed(cloud: str | None) -> str:
    if cloud is None:
        raise UsageError("--cloud must be given; --help lists all flags")
    return cloud


def _profile(profile_file: str | None, found: Found) -> Profile:
    if profile_file is not None:
        return read_profile(profile_file)
    if isinstance(found.prompt, Sheet) and found.prompt.asks_for:
        raise UsageError(f"the sheet asks for {', '.join(found.prompt.asks_for)}; give your profile with "
                         f"--profile_file")  # fmt: skip
    return Profile()


def _sampling(temperature: float, top_p: float, seed: int) -> SamplingParams:
    for wrong, message in (
        (not 0 <= temperature <= 100, f"--temperature {temperature} must lie between 0 (greedy) and 100"),
        (not 0 <= top_p <= 1, f"--top_p {top_p} must lie between 0 and 1"),
        (not 0 <= seed < 2**63, f"--seed {seed} must lie between 0 and 2**63-1"),
    ):
        if wrong:
            raise UsageError(message)
    return SamplingParams(temperature, top_p, seed)


def _load(half: Half, welcome: Welcome, device: torch.device) -> EdgeTransformer:
    """The edge half in the dtype that the cloud computes in."""
    parallel.start()
    return load_edge(half, DTYPES[welcome.dtype], device)


if __name__ == "__main__":
    run(main)
