"""What a shared prefix saves before the first token, and what encryption costs for each one.

    python -m tests.benchmarks.sending [--checkpoint_dir .demo/smollm2] [--rounds 12] [--tokens 48]

Two real clouds in float32, one with keys and one without, and a device in this process that asks them in turn over
loopback, greedily. In every round: the first token with and without the prefix that the cloud has computed, then
the time of a decoded token with and without CURVE. All replies must be the same, token for token.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the product's programs

import torch

from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.client.link import Link
from llama.command import run
from llama.dtypes import DTYPES
from llama.edge.generation import GeneratedReply, GenerationSettings, generate_reply
from llama.errors import SplitLlamaError, UsageError
from llama.keys import link_keys, make_keys
from llama.privacy.preparing import prepare
from llama.privacy.profile import read_profile
from llama.prompt import read_from_directory
from llama.sampling_params import SamplingParams
from tests.benchmarks.reporting import Aimed, Others, end_cleanly_on_sigterm, machine, progress, versions
from tests.processes import cloud
from tests.whole import load_edge

MOST_COST = 1.03
QUIET = 0.05


def main(
    checkpoint_dir: str = ".demo/smollm2", sheet_dir: str = "examples/sheets", prompt_id: str = "birthday",
    profile_file: str = "examples/profile.toml", rounds: int = 12, tokens: int = 48,
) -> None:  # fmt: skip
    """Print the figures.

    Args:
        checkpoint_dir: what split_checkpoint.py wrote.
        sheet_dir: the sheets that the clouds know.
        prompt_id: what is asked.
        profile_file: by whom.
        rounds: of all four.
        tokens: of each reply.
    """
    if rounds < 1 or tokens < 2:
        raise UsageError("--rounds must be 1 or more, --tokens 2 or more")
    end_cleanly_on_sigterm()
    print(machine())
    print(versions(["torch", "pyzmq"]))
    half = read_half(Path(checkpoint_dir) / "edge", "edge")
    tokenizer = tokenizer_of(half)
    outgoing = prepare(
        read_from_directory(sheet_dir, prompt_id), read_profile(profile_file), "schema",
        chat_format_of(half, tokenizer), tokenizer, half.context_length,
    ).outgoing  # fmt: skip
    with ExitStack() as stack:
        own = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (own / "allowed").mkdir()
        make_keys("cloud", "cloud", own)
        make_keys("phone", "device", own)[1].rename(own / "allowed" / "phone.pub")
        flags = ["--dtype", "float32", "--sheet_dir", sheet_dir, "--edge_ckpt_dir", Path(checkpoint_dir) / "edge"]
        keys = ["--key_file", own / "cloud.key", "--allow_dir", own / "allowed"]
        links = list[Link]()
        for number, more in enumerate(([], keys)):
            progress(f"cloud {number + 1} of 2 is loading")
            record = ["--record_file", own / f"{number}.sqlite"]
            serving = stack.enter_context(cloud(Path(checkpoint_dir) / "cloud", *flags, *record, *more))
            pair = link_keys(str(own / "phone.key"), str(own / "cloud.pub"), "device") if more else None
            links.append(stack.enter_context(Link(serving.address, on_notice=progress, keys=pair)))
        welcome = links[0].hello()
        edge, greedy = load_edge(checkpoint_dir, DTYPES[welcome.dtype]), SamplingParams(temperature=0)
        seen = set[tuple[int, ...]]()

        def ask(link: Link, shared: int, number: int) -> GeneratedReply:
            reply = generate_reply(
                outgoing.ids, edge=edge, link=link, welcome=welcome, tokenizer=tokenizer,
                settings=GenerationSettings(greedy, stop_ids=(), max_gen_len=number), shared=shared,
            )  # fmt: skip
            if reply.timing.shared_tokens != shared:
                raise SplitLlamaError(f"the cloud has not computed how {prompt_id} begins; give it more --kv_cache_gb")
            seen.add(tuple(reply.tokens[:2]))
            return reply

        for link in links:
            ask(link, 0, tokens)  # warm
        firsts, per_token = (list[float](), list[float]()), (list[float](), list[float]())
        others, sent = Others(), [0, 0]
        both = (0, outgoing.shared)
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            order = (0, 1) if number % 2 else (1, 0)
            for which in order:
                timing = ask(links[0], both[which], 2).timing
                firsts[which].append(timing.time_to_first_token_s)
                sent[which] = timing.prompt_sent_bytes
            for which in order:
                speed = ask(links[which], outgoing.shared, tokens).timing.tokens_per_s
                assert speed is not None
                per_token[which].append(1000 / speed)
        share = others.share()
    if len(seen) > 1:
        raise SplitLlamaError("a reply differs from the others")
    print(f"\n{Path(checkpoint_dir).name}, float32, {torch.get_num_threads()} threads on each side")
    print(
        f"medians of {rounds} rounds\n\nprompt of {len(outgoing.ids)} tokens, {outgoing.shared} of them everybody's\n"
    )
    for name, which in (("all sent", 0), ("the prefix computed before", 1)):
        print(Aimed(f"time to the first token, {name}", firsts[which], " s", 3).line())
        print(f"  {'bytes up to it':<58} {sent[which]}")
    print(Aimed("computed before / all sent", [after / before for before, after in zip(*firsts, strict=True)]).line())
    print(f"\ndecoding, {tokens} tokens\n")
    for name, which in (("in clear", 0), ("with CURVE", 1)):
        print(Aimed(f"a token, {name}", per_token[which], " ms", 2).line())
    ratios = [curve / clear for clear, curve in zip(*per_token, strict=True)]
    print(Aimed("a token, CURVE / in clear", ratios, "", 3, at_most=MOST_COST).line())
    print(f"  a median token costs {median(per_token[1]) - median(per_token[0]):.2f} ms more")
    print(f"  other processes took {100 * share:.1f} % of the cores meanwhile"
          + ("" if share <= QUIET else ": NOT a quiet machine, do not rely on these figures"))  # fmt: skip


if __name__ == "__main__":
    run(main)
