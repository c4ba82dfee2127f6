"""The uncut model, and the two halves in one process, behind one interface: what the split is compared with.

Knows: the blocks of ``llama.model``, the layout of a half's files (one rank), the sampling rule.
Knows nothing about: sockets, processes, text.

Both are called as ``model(tokens, start_pos, cache, want)`` and give float32 logits of the last ``want`` positions, so
that :func:`chunked_logits` and :func:`generate` run either of them in exactly the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

import model_edge
from llama import parallel
from llama.checkpoint.halves import load_weights, read_half
from llama.edge.generation import CHUNK
from llama.kv_cache import KVCache
from llama.model import RMSNorm, TransformerLayers
from llama.model_args import ModelArgs
from llama.parallel import ColumnParallelLinear, VocabParallelEmbedding, side_by_side
from llama.sampler import sample
from llama.sampling_params import SamplingParams
from model_cloud import CloudTransformer
from model_edge import EdgeTransformer

CPU = torch.device("cpu")


class Cache(Protocol):
    """Keys and values of some slots."""

    def slot(self, index: int) -> Cache:
        """The cache of one slot, as a view."""


class Model(Protocol):
    """A whole model, cut or not."""

    args: ModelArgs

    def new_cache(self, batch_size: int, max_seq_len: int) -> Cache:
        """Make ``batch_size`` slots of ``max_seq_len`` positions."""

    def __call__(self, tokens: torch.Tensor, start_pos: Sequence[int], cache: Any, want: int) -> torch.Tensor:
        """int64 ids ``(B, T)`` to float32 logits ``(B, want, vocab)``."""


class WholeTransformer(TransformerLayers):
    """Meta's transformer in one piece: embeddings, all layers, norm, output head."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args, range(args.n_layers))
        self.tok_embeddings = VocabParallelEmbedding(args.vocab_size, args.dim)
        self.norm = RMSNorm(args.dim, eps=args.norm_eps)
        self.output = ColumnParallelLinear(args.dim, args.vocab_size)

    def prepare(self, for_good: bool = False) -> None:
        """As the layers', and the output head."""
        super().prepare(for_good)
        self._output = side_by_side(self.output, for_good=for_good)

    @torch.inference_mode()
    def forward(self, tokens: torch.Tensor, start_pos: Sequence[int], cache: KVCache, want: int) -> torch.Tensor:
        """int64 ids ``(B, T)`` at positions ``start_pos[b] …`` to float32 logits ``(B, want, vocab)``."""
        h = self.run_layers(self.tok_embeddings(tokens), start_pos, cache)
        if want == 0:
            return h.new_empty(h.shape[0], 0, self.args.vocab_size, dtype=torch.float32)
        logits = self._output(self.norm(h[:, -want:]).flatten(0, 1))
        return logits.view(h.shape[0], want, -1).float()


def load_whole(out: str | Path, dtype: torch.dtype | None = None) -> WholeTransformer:
    """The uncut model out of ``out/edge`` and ``out/cloud`` (one rank), read by plain torch.

    Args:
        out: what split_checkpoint.py wrote.
        dtype: of the weights; None is the checkpoint's.
    """
    parallel.start()
    half = read_half(Path(out) / "cloud", "cloud")
    dtype = half.dtype if dtype is None else dtype
    weights: dict[str, torch.Tensor] = {}
    for name in ("edge", "cloud"):
        stored = torch.load(Path(out) / name / "consolidated.00.pth", weights_only=True, mmap=True)
        weights |= {key: tensor.to(dtype, copy=True) for key, tensor in stored.items()}
    with parallel.unfilled_weights(dtype):
        model = WholeTransformer(half.args)
    model.load_state_dict(weights, strict=True, assign=True)
    model.requires_grad_(False)
    model.prepare(for_good=True)
    return model


@dataclass
class HalvesCache:
    """The device's cache and the cloud's."""

    edge: KVCache
    cloud: KVCache

    def slot(self, index: int) -> HalvesCache:
        """The caches of one slot, as views."""
        return HalvesCache(self.edge.slot(index), self.cloud.slot(index))


class Halves:
    """Device and cloud one after the other in this process: the product's halves, nothing in between."""

    def __init__(self, edge: EdgeTransformer, cloud: CloudTransformer) -> None:
        self.edge, self.cloud, self.args = edge, cloud, edge.args

    def new_cache(self, batch_size: int, max_seq_len: int) -> HalvesCache:
        """Room for ``batch_size`` rows of ``max_seq_len`` positions in each half."""
        return HalvesCache(*(half.new_cache(batch_size, max_seq_len) for half in (self.edge, self.cloud)))

    def __call__(self, tokens: torch.Tensor, start_pos: Sequence[int], cache: HalvesCache, want: int) -> torch.Tensor:
        """int64 ids ``(B, T)`` to float32 logits ``(B, want, vocab)``."""
        rows = self.edge(tokens, start_pos, cache.edge)
        logits: torch.Tensor = self.cloud(rows, start_pos, cache.cloud, want)
        return logits


def load_edge(out: str | Path, dtype: torch.dtype | None = None) -> EdgeTransformer:
    """The device's half of ``out``, loaded as edge_main.py loads it."""
    parallel.start()
    half = read_half(Path(out) / "edge", "edge")
    return model_edge.load_edge(half, half.dtype if dtype is None else dtype, CPU)


def load_halves(out: str | Path, dtype: torch.dtype | None = None) -> Halves:
    """Both halves of ``out`` (one rank), loaded as edge_main.py and cloud_main.py load them."""
    edge, half = load_edge(out, dtype), read_half(Path(out) / "cloud", "cloud")
    dtype = half.dtype if dtype is None else dtype
    with parallel.unfilled_weights(dtype):
        cloud = CloudTransformer(half.args, half.split_layer)
    load_weights(cloud, half, rank=0, world_size=1, dtype=dtype, device=CPU, keep_mapped=False)
    cloud.prepare(for_good=True)
    return Halves(edge, cloud)


def chunked_logits(model: Model, ids: Sequence[int], chunk: int = CHUNK, cache: Cache | None = None) -> torch.Tensor:
    """float32 logits ``(len(ids), vocab)`` at every position, the ids fed ``chunk`` at a time into one row."""
    cache = model.new_cache(1, len(ids)) if cache is None else cache
    pieces = [(start, ids[start : start + chunk]) for start in range(0, len(ids), chunk)]
    return torch.cat([model(torch.tensor([piece]), [start], cache, len(piece))[0] for start, piece in pieces])


@dataclass(frozen=True)
class Generated:
    """Sampled ids, stop id excluded, and the float32 logits ``(n, vocab)`` that each decision was made from."""

    tokens: list[int]
    logits: torch.Tensor


def generate(
    model: Model, prompt: Sequence[int], sampling: SamplingParams, max_gen_len: int, *,
    stop_ids: Sequence[int] = (), chunk: int = CHUNK, keep_logits: bool = True,
) -> Generated:  # fmt: skip
    """A plain loop with the product's chunks and sampling: the prompt ``chunk`` ids at a time, then one by one."""
    cache = model.new_cache(1, len(prompt) + max_gen_len)
    for start in range(0, len(prompt), chunk):
        piece = prompt[start : start + chunk]
        logits = model(torch.tensor([piece]), [start], cache, int(start + chunk >= len(prompt)))
    tokens, seen = list[int](), list[torch.Tensor]()
    for index in range(max_gen_len):
        if index:
            logits = model(torch.tensor([tokens[-1:]]), [len(prompt) + index - 1], cache, 1)
        if keep_logits:
            seen.append(logits[0, 0])
        token = sample(logits[0, 0], sampling, index)
        if token in stop_ids:
            break
        tokens.append(token)
    return Generated(tokens, torch.stack(seen) if seen else torch.empty(0, model.args.vocab_size))
