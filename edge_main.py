"""The device: asks a prompt, with the first layers of the model here and the rest in the cloud.

Used as::

    python edge_main.py --ckpt_dir OUT/edge --cloud tcp://127.0.0.1:5555 --prompt_file FILE
"""

from __future__ import annotations

import os
import signal

# How long an OpenMP thread spins for more work before it sleeps; read once, when torch is loaded. Long enough to bridge
# the gaps between a layer's operations, short enough that the half which waits leaves the cores to the other.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if __name__ == "__main__":  # until run() takes over: Ctrl-C while torch is imported ends quietly
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch

from llama import parallel
from llama.checkpoint.halves import Half, chat_format_of, load_weights, read_half, tokenizer_of
from llama.command import run
from llama.device import cpu_threads, torch_device
from llama.edge import terminal
from llama.edge.link import Link
from llama.errors import CheckpointError, ProtocolMismatch, UsageError
from llama.generation import reply_to
from llama.prompt import read_prompt
from llama.sampling import Sampling
from llama.wire import DTYPES, Welcome
from model_edge import EdgeTransformer


def main(
    ckpt_dir: str,
    cloud: str,
    prompt_file: str,
    temperature: float = 0.6,
    top_p: float = 0.9,
    seed: int = 1,
    max_gen_len: int | None = None,
    device: str = "cpu",
    json: bool = False,
    threads: int | None = None,
    deadline: float = 30.0,
) -> None:
    """Answer the prompt in a file.

    Args:
        ckpt_dir: the edge half that split_checkpoint.py wrote.
        cloud: address of cloud_main.py, tcp://HOST:PORT.
        prompt_file: .txt (one message), .json (a dialogue) or .toml (a prompt sheet).
        temperature: 0 always takes the likeliest token; higher is more varied.
        top_p: choose among the likeliest tokens that make up this share of the probability.
        seed: the same seed gives the same reply.
        max_gen_len: most tokens of the reply; by default what the cloud's context leaves.
        device: where the edge half runs: cpu, cuda or mps.
        json: one JSON object on stdout instead of streamed text.
        threads: CPU threads; by default one per core.
        deadline: seconds of silence after which the cloud is given up.
    """
    sampling = _sampling(temperature, top_p, seed)
    if max_gen_len is not None and max_gen_len < 1:
        raise UsageError(f"--max_gen_len {max_gen_len} leaves nothing to generate; give 1 or more")
    if not deadline > 0:  # nor NaN
        raise UsageError(f"--deadline {deadline} is no time to wait; give seconds above 0")
    where = torch_device(device)
    torch.set_num_threads(cpu_threads(threads))

    prompt = read_prompt(prompt_file)
    half = read_half(ckpt_dir, "edge")
    tokenizer = tokenizer_of(half)
    chat = chat_format_of(half, tokenizer)
    prompt_tokens = chat.encode_dialog_prompt(prompt.dialog)

    screen = terminal.Terminal()
    with Link(cloud, deadline_s=deadline, on_notice=screen.notice) as link:
        welcome = link.hello()
        if welcome.fingerprint != half.fingerprint:
            raise CheckpointError(f"{ckpt_dir} and the cloud at {cloud} are not from the same split; copy edge/ and "
                                  f"cloud/ from one run of split_checkpoint.py")  # fmt: skip
        if (welcome.dim, welcome.split_layer) != (half.args.dim, half.split_layer) or (
            welcome.max_seq_len > half.context_length
        ):
            raise ProtocolMismatch(f"the cloud at {cloud} describes another model than its fingerprint does; update it")
        reply = reply_to(
            prompt_tokens, edge=_load(half, welcome, where), link=link, welcome=welcome, tokenizer=tokenizer,
            stop_ids=chat.stop_ids, sampling=sampling, max_gen_len=max_gen_len, prompt_id=prompt.id,
            on_text=(lambda text: None) if json else screen.show_text,
        )  # fmt: skip
    if json:
        terminal.show_json(reply)
    else:
        screen.show_text("\n")
        if (why := terminal.ending(reply, welcome.max_seq_len)) is not None:
            screen.notice(why)
        screen.notice(terminal.timing_line(reply.timing))


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
