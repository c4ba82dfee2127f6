"""The device: asks a prompt, with the first layers of the model here and the rest in the cloud.

Used as::

    python edge_main.py --ckpt_dir OUT/edge --cloud tcp://127.0.0.1:5555 --prompt_file FILE
    python edge_main.py … --sheet_dir DIR --prompt_id NAME --profile_file profile.toml
"""

from __future__ import annotations

import os
import signal

# How long an OpenMP thread spins for more work before it sleeps; read once, when torch is loaded. Long enough to bridge
# the gaps between a layer's operations, short enough that the half which waits leaves the cores to the other.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if __name__ == "__main__":  # until run() takes over: Ctrl-C while torch is imported ends quietly
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys

import torch

from llama import parallel
from llama.checkpoint.halves import Half, chat_format_of, load_weights, read_half, tokenizer_of
from llama.command import run
from llama.device import cpu_threads, torch_device
from llama.edge import consent, terminal
from llama.edge.link import Link
from llama.errors import CheckpointError, ProtocolMismatch, UsageError
from llama.generation import reply_limit, reply_to
from llama.privacy.preparing import holdings, prepare
from llama.privacy.profile import Profile, read_profile
from llama.privacy.restoring import Restorer
from llama.privacy.sanitiser import MODES, Mode
from llama.prompt import Found, read_from_directory, read_prompt
from llama.sampling import Sampling
from llama.sheets import Sheet
from llama.wire import DTYPES, Welcome
from model_edge import EdgeTransformer


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
    temperature: float = 0.6,
    top_p: float = 0.9,
    seed: int = 1,
    max_gen_len: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    deadline: float = 30.0,
) -> None:
    """Answer a prompt, with the person's data where the prompt asks for it.

    Args:
        ckpt_dir: the edge half that split_checkpoint.py wrote.
        cloud: address of cloud_main.py, tcp://HOST:PORT.
        prompt_file: .txt (your own message), .json (your own dialogue) or .toml (a prompt sheet).
        sheet_dir: the provider's directory of sheets; with --prompt_id, instead of --prompt_file.
        prompt_id: which sheet of it, NAME or VENDOR/NAME.
        profile_file: your data, TOML; it stays on this device.
        sanitise: schema replaces what is secret before it leaves; off sends your words as they are.
        dry_run: print what would leave this device, and stop.
        yes: agree to what the sheet asks for, this time.
        plain: nothing but the reply on stdout, for pipes.
        json: one JSON object on stdout instead of streamed text.
        temperature: 0 always takes the likeliest token; higher is more varied.
        top_p: choose among the likeliest tokens that make up this share of the probability.
        seed: the same seed gives the same reply.
        max_gen_len: most tokens of the reply; by default what the cloud's context leaves.
        device: where the edge half runs: cpu, cuda or mps.
        threads: CPU threads; by default one per core.
        deadline: seconds of silence after which the cloud is given up.
    """
    sampling = _sampling(temperature, top_p, seed)
    if max_gen_len is not None and max_gen_len < 1:
        raise UsageError(f"--max_gen_len {max_gen_len} leaves nothing to generate; give 1 or more")
    if not deadline > 0:  # nor NaN
        raise UsageError(f"--deadline {deadline} is no time to wait; give seconds above 0")
    if sanitise not in MODES:
        raise UsageError(f"--sanitise {sanitise} is not known; give {' or '.join(MODES)}")
    mode: Mode = "off" if sanitise == "off" else "schema"
    if cloud is None and not dry_run:
        raise UsageError("--cloud must be given; --help lists all flags")
    where = torch_device(device)
    torch.set_num_threads(cpu_threads(threads))

    found = _prompt(prompt_file, sheet_dir, prompt_id)
    profile = _profile(profile_file, found)
    half = read_half(ckpt_dir, "edge")
    tokenizer = tokenizer_of(half)
    chat = chat_format_of(half, tokenizer)
    screen = terminal.Terminal(plain=plain or json)
    if mode == "off":
        screen.notice("warning: --sanitise off: your words and fields leave this device as they are; whoever receives "
                      "them can read them")  # fmt: skip
    prepared = prepare(found, profile, mode, chat, tokenizer, half.context_length)
    tags = prepared.sanitiser.tags
    if isinstance(found.prompt, Sheet):
        if missing := [name for name in found.prompt.asks_for if profile.find(name) is None]:
            screen.notice(f"the sheet asks for {', '.join(missing)}, which your profile does not have")
        if profile_file is not None and not dry_run:

            def ask(question: str) -> bool | None:
                if screen.has_keyboard():
                    screen.show_prompt(prepared.dialog, tags)
                return screen.ask(question)

            consent.require(found, profile, profile_file, mode, yes=yes, ask=ask, notice=screen.notice)
    if cloud is None or dry_run:
        terminal.show_dry_run(prepared.outgoing.text)
        if tags and sys.stderr.isatty():
            screen.notice(f"known here only: {terminal.legend(tags)}")
        screen.notice(f"nothing was sent; a run sends the rows of these {len(prepared.outgoing.ids)} tokens and of the "
                      f"reply's, the prompt id '{found.prompt_id}', and the sampling settings")  # fmt: skip
        return

    restorer = Restorer(tags)
    restored = list[str]()

    def show(text: str) -> None:
        restored.append(text)
        if not json:
            screen.show_text(text)

    with Link(cloud, deadline_s=deadline, on_notice=screen.notice) as link:
        welcome = link.hello()
        if welcome.fingerprint != half.fingerprint:
            raise CheckpointError(f"{ckpt_dir} and the cloud at {cloud} are not from the same split; copy edge/ and "
                                  f"cloud/ from one run of split_checkpoint.py")  # fmt: skip
        if (welcome.dim, welcome.split_layer) != (half.args.dim, half.split_layer) or (
            welcome.max_seq_len > half.context_length
        ):
            raise ProtocolMismatch(f"the cloud at {cloud} describes another model than its fingerprint does; update it")
        reply_limit(len(prepared.outgoing.ids), max_gen_len, welcome.max_seq_len)
        edge = _load(half, welcome, where)
        screen.show_prompt(prepared.dialog, tags)
        screen.begin_reply()
        reply = reply_to(
            prepared.outgoing.ids, edge=edge, link=link, welcome=welcome, tokenizer=tokenizer,
            stop_ids=chat.stop_ids, sampling=sampling, max_gen_len=max_gen_len, prompt_id=found.prompt_id,
            on_text=lambda text: show(restorer.push(text)),
        )  # fmt: skip
    show(restorer.finish())
    text, times = "".join(restored), terminal.timing_line(reply.timing)
    if json:
        terminal.show_json(reply, text, restorer.restored, restorer.left)
        return
    screen.show_text("\n")
    counts = f"{reply.timing.prompt_tokens} + {reply.timing.reply_tokens} tokens, {reply.timing.total_s:.1f} s"
    run_of = holdings(found, profile, prepared, reply.text, text, counts)
    screen.show_views(run_of, third_party=found.party, tags=tags, raw=mode == "off")
    if (why := terminal.ending(reply, welcome.max_seq_len)) is not None:
        screen.notice(why)
    if restorer.left:
        screen.notice(f"tags left as they are in the reply: {restorer.left}; this run has not issued them, or they "
                      f"stand in a link, markup or code")  # fmt: skip
    screen.notice(times)


def _prompt(prompt_file: str | None, sheet_dir: str | None, prompt_id: str | None) -> Found:
    if prompt_file is not None and sheet_dir is None and prompt_id is None:
        return read_prompt(prompt_file)
    if prompt_file is None and sheet_dir is not None and prompt_id is not None:
        return read_from_directory(sheet_dir, prompt_id)
    raise UsageError("either --prompt_file must be given, or --sheet_dir and --prompt_id; --help lists all flags")


def _profile(profile_file: str | None, found: Found) -> Profile:
    if profile_file is not None:
        return read_profile(profile_file)
    if isinstance(found.prompt, Sheet) and found.prompt.asks_for:
        raise UsageError(f"the sheet asks for {', '.join(found.prompt.asks_for)}; give your profile with "
                         f"--profile_file")  # fmt: skip
    return Profile()


def _sampling(temperature: float, top_p: float, seed: int) -> Sampling:
    for wrong, message in (
        (not 0 <= temperature <= 100, f"--temperature {temperature} must lie between 0 (greedy) and 100"),
        (not 0 <= top_p <= 1, f"--top_p {top_p} must lie between 0 and 1"),
        (not 0 <= seed < 2**63, f"--seed {seed} must lie between 0 and 2**63-1"),
    ):
        if wrong:
            raise UsageError(message)
    return Sampling(temperature, top_p, seed)


def _load(half: Half, welcome: Welcome, device: torch.device) -> EdgeTransformer:
    """The edge half in the dtype that the cloud computes in; embeddings stay in the file and are looked up there."""
    parallel.start()
    dtype = DTYPES[welcome.dtype]
    with parallel.unfilled_weights(dtype):
        model = EdgeTransformer(half.args, half.split_layer)
    load_weights(model, half, rank=0, world_size=1, dtype=dtype, device=device, keep_mapped=True)
    model.prepare()
    return model


if __name__ == "__main__":
    run(main)
