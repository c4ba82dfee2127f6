"""The contenders of ``decode``, each a process of its own that works only when it is its turn.

    python -m tests.benchmarks.contenders NAME JOB

JOB is a :class:`Job` as JSON. The process says :class:`Ready` when all is loaded; then each line on its stdin is
answered by one :class:`Turn`, and the end of stdin ends it. Between turns it blocks in that read, so that it takes no
core from whoever's turn it is. Both kinds of answer are lines of JSON.

Nothing that loads torch is imported at the top: OpenMP reads its environment once, when torch is loaded, and some
contenders run under the product's.

Knows: how to decode with the product's two halves, with the uncut model and with transformers; how to read memory fast.
Knows nothing about: rounds, ratios, aims.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from tests.benchmarks.reporting import available_memory, progress

if TYPE_CHECKING:
    import torch

    from llama.checkpoint.halves import Half


class Job(msgspec.Struct):
    """What every contender is asked.

    Attributes:
        checkpoint_dir: what split_checkpoint.py wrote, for one rank.
        prompt_file: as edge_main.py takes it.
        tokens: number to decode; none of them ends the reply.
        address: of the cloud, for the split.
    """

    checkpoint_dir: str
    prompt_file: str
    tokens: int
    address: str


class Ready(msgspec.Struct):
    """A contender that has loaded everything.

    Attributes:
        threads: that torch computes with.
        spin_count: its GOMP_SPINCOUNT, or empty.
        note: what else should be told about it.
        prompt_tokens: length of the prompt.
        weight_bytes: of the weights that every decoded token reads.
    """

    threads: int
    spin_count: str
    note: str = ""
    prompt_tokens: int = 0
    weight_bytes: int = 0


class Turn(msgspec.Struct):
    """What a contender did in its turn.

    Attributes:
        per_s: tokens after the first, by the time from the first to the last; or bytes read.
        ids: all tokens, the first one too.
        ms: of a decoded token on the device, in the network and in the cloud.
    """

    per_s: float
    ids: list[int] = []
    ms: tuple[float, float, float] | None = None


Contender = Callable[[Job], tuple[Ready, Callable[[], Turn]]]


def split(job: Job) -> tuple[Ready, Callable[[], Turn]]:
    """The device: the product's own ``generate_reply``, over loopback to a real cloud."""
    _as_the_product()
    from llama.checkpoint.halves import read_half, tokenizer_of
    from llama.client.link import Link
    from llama.dtypes import DTYPES
    from llama.edge.generation import GenerationSettings, generate_reply
    from llama.privacy.restoring import Restorer
    from llama.sampling_params import SamplingParams
    from tests.whole import load_edge

    half = read_half(Path(job.checkpoint_dir) / "edge", "edge")
    tokenizer, prompt = tokenizer_of(half), _prompt_ids(half, job)
    link = Link(job.address, on_notice=progress)
    welcome = link.hello()
    edge = load_edge(job.checkpoint_dir, DTYPES[welcome.dtype])

    def turn() -> Turn:
        restorer = Restorer({"[NAME_1]": "Sari"})

        def show(text: str) -> None:
            restorer.push(text)

        reply = generate_reply(
            prompt, edge=edge, link=link, welcome=welcome, tokenizer=tokenizer,
            settings=GenerationSettings(SamplingParams(temperature=0), stop_ids=(), max_gen_len=job.tokens),
            on_text=show,
        )  # fmt: skip
        t = reply.timing
        assert t.tokens_per_s and t.device_ms_per_token and t.network_ms_per_token and t.cloud_ms_per_token
        per_token = (t.device_ms_per_token, t.network_ms_per_token, t.cloud_ms_per_token)
        return Turn(t.tokens_per_s, reply.tokens, per_token)

    return _ready(note=f"cut at k = {half.split_layer}, {welcome.dtype}", prompt_tokens=len(prompt)), turn


def uncut(job: Job) -> tuple[Ready, Callable[[], Turn]]:
    """The same blocks, the same chunks of the prompt and the same sampling, in one process."""
    _as_the_product()
    import torch

    from llama.checkpoint import layout
    from llama.checkpoint.halves import read_half
    from llama.edge.generation import CHUNK
    from llama.sampler import sample
    from llama.sampling_params import SamplingParams
    from tests.whole import load_whole

    model, greedy = load_whole(job.checkpoint_dir, torch.float32), SamplingParams(temperature=0)
    prompt = _prompt_ids(read_half(Path(job.checkpoint_dir) / "edge", "edge"), job)

    def turn() -> Turn:
        cache = model.new_cache(1, len(prompt) + job.tokens)
        for start in range(0, len(prompt), CHUNK):
            chunk = torch.tensor([prompt[start : start + CHUNK]])
            logits = model(chunk, [start], cache, int(start + CHUNK >= len(prompt)))
        ids = [sample(logits[0, 0], greedy, 0)]
        began = time.monotonic()
        while len(ids) < job.tokens:
            logits = model(torch.tensor([ids[-1:]]), [len(prompt) + len(ids) - 1], cache, 1)
            ids.append(sample(logits[0, 0], greedy, len(ids)))
        return Turn((len(ids) - 1) / (time.monotonic() - began), ids)

    # Of the embeddings a token reads one row; tied or not, the output head is read as a whole.
    read = sum(weight.nbytes for name, weight in model.named_parameters() if name != layout.EMBEDDINGS)
    return _ready(prompt_tokens=len(prompt), weight_bytes=read), turn


def transformers(job: Job) -> tuple[Ready, Callable[[], Turn]]:
    """``LlamaForCausalLM.generate`` with everything as it comes."""
    import torch
    from transformers.generation.streamers import BaseStreamer

    from llama.checkpoint.halves import read_half

    half = read_half(Path(job.checkpoint_dir) / "edge", "edge")
    model, prompt = _hugging_face_model(half, Path(job.checkpoint_dir)), _prompt_ids(half, job)

    class Clock(BaseStreamer):
        """When the prompt, and then each token, was handed out."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: Any) -> None:
            self.times.append(time.monotonic())

        def end(self) -> None:
            pass

    def turn() -> Turn:
        clock, ids = Clock(), torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True, max_new_tokens=job.tokens,
            streamer=clock,
        )  # fmt: skip
        _, first, *later = clock.times
        return Turn(len(later) / (later[-1] - first), output[0, len(prompt) :].tolist())

    return _ready(note=f"attention: {model.config._attn_implementation}", prompt_tokens=len(prompt)), turn


def transformers_spinning_less(job: Job) -> tuple[Ready, Callable[[], Turn]]:
    """The same under the product's OpenMP environment; torch's own number of threads."""
    importlib.import_module("edge_main")
    return transformers(job)


def reading(job: Job) -> tuple[Ready, Callable[[], Turn]]:
    """Memory read from end to end by as many threads, in whichever of three ways is fastest here.

    The buffer is four times the last cache (1 GiB at least), so that little of it is still there when it is read again.
    """
    _as_the_product()
    import torch

    size = min(max(1 << 30, 4 * _last_cache_bytes()), available_memory() // 4)
    rows = torch.ones(size // 4 // 4096, 4096)
    buffer, vector = rows.view(-1), torch.ones(4096)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "sum": buffer.sum,
        "dot product with itself": lambda: torch.dot(buffer, buffer),
        "matrix by vector": lambda: torch.mv(rows, vector),
    }

    def bytes_per_s(way: Callable[[], torch.Tensor]) -> float:
        def once() -> float:
            began = time.monotonic()
            way()
            return time.monotonic() - began

        return rows.nbytes / median(once() for _ in range(5))

    fastest = max(ways, key=lambda name: bytes_per_s(ways[name]))
    return _ready(note=f"{fastest}, {rows.nbytes / 1e9:.1f} GB"), lambda: Turn(bytes_per_s(ways[fastest]))


CONTENDERS: dict[str, Contender] = {
    "split": split,
    "uncut": uncut,
    "transformers": transformers,
    "transformers_spinning_less": transformers_spinning_less,
    "reading": reading,
}


def main(name: str, job: Job) -> None:
    """Answer on stdout; whatever a library prints there goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks: it ends the others
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    ready, turn = CONTENDERS[name](job)
    answers.write(msgspec.json.encode(ready) + b"\n")
    for _ in sys.stdin:
        answers.write(msgspec.json.encode(turn()) + b"\n")


def _as_the_product() -> None:
    """The environment and the threads of edge_main.py."""
    importlib.import_module("edge_main")  # sets the environment, then loads torch
    import torch

    from llama.device import cpu_threads

    torch.set_num_threads(cpu_threads(None))


def _ready(note: str = "", prompt_tokens: int = 0, weight_bytes: int = 0) -> Ready:
    import torch

    spin_count = os.environ.get("GOMP_SPINCOUNT", "")
    return Ready(torch.get_num_threads(), spin_count, note, prompt_tokens, weight_bytes)


def _prompt_ids(half: Half, job: Job) -> list[int]:
    from llama.checkpoint.halves import chat_format_of, tokenizer_of
    from llama.privacy.preparing import prepare
    from llama.privacy.profile import Profile
    from llama.prompt import read_prompt

    tokenizer = tokenizer_of(half)
    chat = chat_format_of(half, tokenizer)
    prepared = prepare(read_prompt(job.prompt_file), Profile(), "schema", chat, tokenizer, half.context_length)
    return list(prepared.outgoing.ids)


def _hugging_face_model(half: Half, checkpoint_dir: Path) -> Any:
    """The halves' weights as a float32 ``LlamaForCausalLM`` that never stops by itself (unscaled rotary embedding)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llama.checkpoint import layout
    from llama.checkpoint.hugging_face import hugging_face_name
    from llama.checkpoint.shards import open_pth

    stored = {
        name: tensor.float()
        for part in layout.HALVES
        for name, tensor in open_pth(checkpoint_dir / part / "consolidated.00.pth").items()
    }
    for name, tensor in stored.items():
        if name.endswith(("attention.wq.weight", "attention.wk.weight")):  # its rotary pairs lie half a head apart
            pairs = tensor.view(-1, half.args.head_dim // 2, 2, half.args.dim)
            stored[name] = pairs.transpose(1, 2).reshape(tensor.shape)
    args = half.args
    config = LlamaConfig(
        hidden_size=args.dim, intermediate_size=args.hidden_dim, num_hidden_layers=args.n_layers,
        num_attention_heads=args.n_heads, num_key_value_heads=args.kv_heads, vocab_size=args.vocab_size,
        rms_norm_eps=args.norm_eps, max_position_embeddings=half.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": args.rope_theta},
        tie_word_embeddings=torch.equal(stored[layout.EMBEDDINGS], stored[layout.OUTPUT]),
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.load_state_dict({hugging_face_name(name): tensor for name, tensor in stored.items()}, strict=True)
    return model.train(False)


def _last_cache_bytes() -> int:
    """Size of the largest cache that the kernel lists, or 0."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    units = {"K": 1 << 10, "M": 1 << 20}
    return max((int(text[:-1]) * units[text[-1]] for text in (path.read_text().strip() for path in sizes)), default=0)


if __name__ == "__main__":
    main(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Job))
