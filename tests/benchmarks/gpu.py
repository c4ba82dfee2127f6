"""How fast a cloud decodes on a CUDA GPU, beside what the GPU's memory allows and beside transformers.

    python -m tests.benchmarks.gpu [--rounds 5] [--steps 48] [--filled 512]

A model of Llama 3.1 8B's shape with random bfloat16 weights, cut after its first layer. A pass takes one row of each
session from the CPU's memory, as they come from the network, and ends with the likeliest ids back there. In turn, in
every round: recorded passes (CUDA graphs) and passes computed anew; then, for the same numbers of sequences, all 32
layers with the embeddings, device's half and cloud's half on this one GPU without any network, and transformers'
``generate`` with everything as it comes.

The share of memory bandwidth counts what a pass must read once, weights and used cache, against what a copy within the
GPU's memory moves, reading and writing, in the same round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import TypeVar

import torch

from llama import parallel
from llama.cloud.cuda_graphs import DecodeGraphs
from llama.cloud.model_runner import ModelRunner
from llama.command import run
from llama.errors import UsageError
from llama.model import KVCache, ModelArgs, TransformerLayers
from model_cloud import CloudTransformer
from model_edge import EdgeTransformer
from tests.benchmarks.reporting import Aimed, machine, progress, versions

LLAMA_3_1_8B = ModelArgs(
    dim=4096,
    n_layers=32,
    n_heads=32,
    n_kv_heads=8,
    vocab_size=128256,
    multiple_of=1024,
    ffn_dim_multiplier=1.3,
    rope_theta=500000.0,
    use_scaled_rope=True,
)
BATCHES = (1, 8, 32)
AIM_AT_1 = 70
BF16 = torch.bfloat16

Part = TypeVar("Part", bound=TransformerLayers)


def main(rounds: int = 5, steps: int = 48, filled: int = 512, max_seq_len: int = 2048, peer: bool = True) -> None:
    """Print the figures.

    Args:
        rounds: of everything.
        steps: passes in each turn.
        filled: positions that every session has when a turn begins.
        max_seq_len: of the cache, per session.
        peer: transformers, too.
    """
    if not torch.cuda.is_available():
        raise UsageError("this benchmark is about a CUDA GPU, and there is none")
    if rounds < 1 or steps < 2 or not 1 <= filled <= max_seq_len - steps:
        raise UsageError("--rounds must be 1 or more, --steps 2 or more, --filled at most --max_seq_len less --steps")
    gpu = torch.device("cuda", 0)
    torch.cuda.set_device(gpu)
    print(machine())
    print(f"GPU: {torch.cuda.get_device_name(gpu)}")
    print(versions(["torch", "transformers"]))
    parallel.start()
    turns = _Turns(gpu, steps, filled, max_seq_len)
    taken: dict[str, list[float]] = {}
    for number in range(rounds + 1):  # the first is a warm-up
        progress(f"round {number} of {rounds}")
        for name, turn in turns.ours.items():
            seconds = turn()
            if number:
                taken.setdefault(name, []).append(seconds)
    turns.free()
    if peer:
        theirs = _transformers(gpu, steps, filled)
        for number in range(3):
            progress(f"transformers, round {number} of 2")
            for name, turn in theirs.items():
                seconds = turn()
                if number:
                    taken.setdefault(name, []).append(seconds)
    _print(taken, turns, filled + steps // 2, f"{steps} passes, {filled} positions filled before")


def _print(taken: dict[str, list[float]], turns: _Turns, positions: int, what: str) -> None:
    copy = [2 * turns.copied / seconds / 1e12 for seconds in taken["copy"]]
    print(f"\nLlama 3.1 8B's shape, bfloat16, random weights, cut at k = 1; {what}; medians\n")
    print(Aimed("a copy within the GPU's memory, read and written", copy, " TB/s", 2).line())
    for batch in BATCHES:
        recorded, anew = taken[f"recorded {batch}"], taken[f"anew {batch}"]
        read = turns.weight_bytes + batch * positions * turns.position_bytes
        share = [100 * read / s / 1e12 / rate for s, rate in zip(recorded, copy, strict=True)]
        print(Aimed(f"the cloud, batch {batch}", [batch / s for s in recorded], " tokens/s", 1).line())
        print(Aimed(f"  a pass ({read / 1e9:.1f} GB to read)", [1e3 * s for s in recorded], " ms", 2).line())
        print(Aimed("  share of memory bandwidth", share, " %", 1, at_least=AIM_AT_1 if batch == 1 else None).line())
        print(Aimed("  recorded / computed anew", [a / r for a, r in zip(anew, recorded, strict=True)]).line())
    for batch in BATCHES:
        ours = taken[f"whole {batch}"]
        print(Aimed(f"both halves on the GPU, batch {batch}", [batch / s for s in ours], " tokens/s", 1).line())
        if theirs := taken.get(f"transformers {batch}"):
            print(Aimed(f"transformers, batch {batch}", [batch / s for s in theirs], " tokens/s", 1).line())
            print(Aimed("  both halves / transformers", [median(theirs) / median(ours)]).line())


class _Turns:
    """Both halves with their caches, and what is measured of them; seconds of one pass each."""

    def __init__(self, gpu: torch.device, steps: int, filled: int, max_seq_len: int) -> None:
        most = BATCHES[-1]
        self._steps, self._filled, self._gpu = steps, filled, gpu
        self._edge, self._cloud = _random(EdgeTransformer, gpu), _random(CloudTransformer, gpu)
        self._cache, self._edge_cache = (
            self._cloud.new_cache(most, max_seq_len),
            self._edge.new_cache(most, max_seq_len),
        )
        began = time.monotonic()
        recorded = DecodeGraphs(self._cloud, self._cache)
        torch.cuda.synchronize()
        progress(f"recorded in {time.monotonic() - began:.1f} s")
        self._cache.keys_values.normal_()
        self._edge_cache.keys_values.normal_()
        self._recorded, self._anew = (
            ModelRunner(self._cloud, self._cache, LLAMA_3_1_8B.dim, r) for r in (recorded, None)
        )
        self.weight_bytes = sum(w.nbytes for w in self._cloud.parameters())
        self.position_bytes = KVCache.bytes_per_position(len(self._cloud.layers), LLAMA_3_1_8B, BF16, 1)
        self._from = torch.empty(1 << 31, dtype=torch.uint8, device=gpu).random_()
        self._to = torch.empty_like(self._from)
        self.copied = self._from.nbytes
        self.ours: dict[str, Callable[[], float]] = {"copy": self._copy}
        for batch in BATCHES:
            self.ours |= {
                f"recorded {batch}": lambda n=batch: self._decode(self._recorded, n),  # type: ignore[misc]
                f"anew {batch}": lambda n=batch: self._decode(self._anew, n),  # type: ignore[misc]
                f"whole {batch}": lambda n=batch: self._whole(n),  # type: ignore[misc]
            }

    def free(self) -> None:
        """Give the GPU's memory back: what is measured next needs it."""
        self.ours.clear()
        for name in ("_edge", "_cloud", "_cache", "_edge_cache", "_recorded", "_anew", "_from", "_to"):
            delattr(self, name)
        gc.collect()
        torch.cuda.empty_cache()

    def _copy(self) -> float:
        return _seconds(lambda _: self._to.copy_(self._from), 10)

    def _decode(self, runner: ModelRunner, batch: int) -> float:
        rows = torch.randn(self._steps, batch, LLAMA_3_1_8B.dim, dtype=BF16)
        slots = list(range(batch))

        def step(number: int) -> None:
            runner.decode(slots, [self._filled + number] * batch, rows[number]).argmax(-1).tolist()

        return _seconds(step, self._steps)

    def _whole(self, batch: int) -> float:
        ids, slots = torch.zeros(batch, 1, dtype=torch.int64, device=self._gpu), list(range(batch))
        edge_cache = self._edge_cache.rows(0, batch)

        def step(number: int) -> None:
            starts = [self._filled + number] * batch
            rows = self._edge(ids, starts, edge_cache)[:, 0]
            ids.copy_(self._recorded.decode(slots, starts, rows).argmax(-1)[:, None])
            ids.tolist()

        return _seconds(step, self._steps)


def _seconds(step: Callable[[int], object], steps: int) -> float:
    """Of one of several passes."""
    torch.cuda.synchronize()
    began = time.monotonic()
    with torch.inference_mode():
        for number in range(steps):
            step(number)
    torch.cuda.synchronize()
    return (time.monotonic() - began) / steps


def _random(part: Callable[[ModelArgs, int], Part], gpu: torch.device) -> Part:
    with parallel.unfilled_weights(BF16):
        half = part(LLAMA_3_1_8B, 1).to_empty(device=gpu).requires_grad_(False)
    for name, weight in half.named_parameters():
        weight.normal_(1.0 if "norm" in name else 0.0, 0.02)
    half.prepare(for_good=True)
    return half


def _transformers(gpu: torch.device, steps: int, filled: int) -> dict[str, Callable[[], float]]:
    """Seconds of one token of each sequence: from those of many tokens, those of one token are taken away."""
    import transformers

    a = LLAMA_3_1_8B
    config = transformers.LlamaConfig(
        vocab_size=a.vocab_size,
        hidden_size=a.dim,
        intermediate_size=a.hidden_dim,
        num_hidden_layers=a.n_layers,
        num_attention_heads=a.n_heads,
        num_key_value_heads=a.kv_heads,
        rms_norm_eps=a.norm_eps,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.set_default_dtype(BF16)
    with gpu:
        model = transformers.LlamaForCausalLM(config).eval()  # type: ignore[no-untyped-call]
    torch.set_default_dtype(torch.float32)

    def turn(batch: int) -> float:
        ids = torch.randint(0, a.vocab_size, (batch, filled), device=gpu)
        mask = torch.ones_like(ids)

        def generated(tokens: int) -> float:
            return _seconds(
                lambda _: model.generate(
                    ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens
                ),
                1,
            )

        return (generated(steps + 1) - generated(1)) / steps

    return {f"transformers {batch}": lambda n=batch: turn(n) for batch in BATCHES}  # type: ignore[misc]


if __name__ == "__main__":
    run(main)
