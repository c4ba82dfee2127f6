"""CUDA graphs of decoding steps: captured once, replayed for each step.

A step of few sequences reads the weights and launches some 20 kernels a layer. Each launch takes longer than its kernel
runs. A CUDA graph launches all kernels at once, but it needs the shapes and addresses of its capture. So there is one
graph for each of a few batch sizes (*buckets*). Before each replay the hidden states, their slots and their positions
are written to the tensors that the graph reads. Attention takes its lengths from there, too.

Knows: the model, its cache. Does not know: sessions, other ranks (with several, nothing is captured).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llama.kv_cache import KVCache, StepMetadata
from llama.model_args import ModelArgs

MAX_BATCH_SIZE = 256  # largest batch size of a graph
OLDEST_GPU = (8, 0)  # Ampere, the first architecture that torch's flash attention supports
WIDEST_HEAD = 256  # widest head that torch's flash attention supports; the width must be a multiple of 8


class Decoder(Protocol):
    """The attributes of the cloud's half that the graphs use."""

    args: ModelArgs
    freqs_cis: torch.Tensor

    @property
    def first_weight(self) -> torch.Tensor:
        """Any weight of the layers, for their dtype and device."""

    def decode(self, h: torch.Tensor, step: StepMetadata, cache: KVCache) -> torch.Tensor:
        """Return float32 logits ``(B, vocab)`` for one hidden state of each sequence, ``(B, dim)``."""


@dataclass(frozen=True)
class _DecodeGraph:
    """The CUDA graph of one batch size B, and the tensors that it reads and writes, all on the GPU.

    Attributes:
        graph: the graph to replay.
        hidden: ``(B, dim)``, the hidden states that it reads.
        where: int64 ``(2, B)``, their slots and their positions.
        logits: float32 ``(B, vocab)``, the logits that it writes.
    """

    graph: torch.cuda.CUDAGraph
    hidden: torch.Tensor
    where: torch.Tensor
    logits: torch.Tensor


class DecodeGraphs:
    """CUDA graphs for steps of one new position for each of some slots.

    Capturing takes GPU memory once, for the intermediate results of the largest bucket, and some tenths of a second a
    bucket.

    Args:
        model: the prepared model, on a GPU.
        cache: an empty cache. Capturing writes position 0 of its first slot, and zeroes it again.
    """

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._model, self._cache = model, cache
        self._freqs_cis = model.freqs_cis  # the graphs read it, so keep it alive if the model replaces it
        pool = torch.cuda.graph_pool_handle()
        # From the largest down, so that the others reuse its memory and allocate none.
        self._graphs = {size: self._capture(size, pool) for size in reversed(buckets(cache.n_slots))}
        cache.slot(0).clear(1)

    @staticmethod
    def suits(model: Decoder) -> bool:
        """Return True if flash attention supports this GPU, dtype and head width."""
        weight, width = model.first_weight, model.args.head_dim
        if not weight.is_cuda or torch.cuda.get_device_capability(weight.device) < OLDEST_GPU:
            return False
        return weight.dtype in (torch.bfloat16, torch.float16) and width <= WIDEST_HEAD and width % 8 == 0

    def fits(self, batch_size: int) -> bool:
        """Return True if there is a graph for a batch of this size."""
        return batch_size <= max(self._graphs)

    @torch.inference_mode()
    def __call__(self, slots: Sequence[int], positions: Sequence[int], hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits ``(B, vocab)`` for hidden states ``(B, dim)``, b at ``positions[b]`` of ``slots[b]``.

        The next call overwrites the returned tensor.
        """
        count = len(slots)
        size = min(size for size in self._graphs if size >= count)
        captured = self._graphs[size]
        # Copies of the last sequence fill the bucket. They write the same values to the same place.
        spare = size - count
        where = torch.tensor([[*slots, *[slots[-1]] * spare], [*positions, *[positions[-1]] * spare]])
        captured.where.copy_(where)
        captured.hidden[:count].copy_(hidden)
        if spare:
            captured.hidden[count:].copy_(captured.hidden[count - 1])
        captured.graph.replay()
        return captured.logits[:count]

    @torch.inference_mode()
    def _capture(self, size: int, pool: torch.cuda._POOL_HANDLE) -> _DecodeGraph:
        weight = self._model.first_weight
        hidden = torch.zeros(size, self._model.args.dim, dtype=weight.dtype, device=weight.device)
        where = torch.zeros(2, size, dtype=torch.int64, device=weight.device)

        def decoded() -> torch.Tensor:
            step = StepMetadata.for_cuda_graph(where[0], where[1], self._freqs_cis, self._cache)
            return self._model.decode(hidden, step, self._cache)

        # Run once on another stream without capturing, as torch requires: libraries initialise themselves on first use.
        aside = torch.cuda.Stream(weight.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(weight.device))
        with torch.cuda.stream(aside):
            decoded()
        torch.cuda.current_stream(weight.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits = decoded()
        return _DecodeGraph(graph, hidden, where, logits)


def buckets(slots: int) -> list[int]:
    """Return the batch sizes to capture graphs for, ascending: powers of two, and the largest possible size."""
    most = min(slots, MAX_BATCH_SIZE)
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]
