"""CUDA graphs of steps that decode: captured once, replayed for each step.

Beside reading the weights, a step of few sequences costs the launching of its kernels: some 20 a layer, each in more
time than it runs. A CUDA graph launches all of them at once, and wants every shape and every address to be as when it
was captured. So there is one for each of a few batch sizes (*buckets*); the hidden states, their slots and their
positions are written to where it reads them; and attention takes its lengths from there, too.

Knows: the model, its cache. Does not know: sessions, other ranks (with several, nothing is captured).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llama.kv_cache import KVCache, StepMetadata
from llama.model_args import ModelArgs

MAX_BATCH_SIZE = 256  # of one graph
OLDEST_GPU = (8, 0)  # Ampere, the first that torch's flash attention runs on
WIDEST_HEAD = 256  # its limit, and a multiple of 8


class Decoder(Protocol):
    """The cloud's half, as far as it matters here."""

    args: ModelArgs
    freqs_cis: torch.Tensor

    @property
    def first_weight(self) -> torch.Tensor:
        """Any weight of the layers, to ask for their dtype and device."""

    def decode(self, h: torch.Tensor, step: StepMetadata, cache: KVCache) -> torch.Tensor:
        """Turn one hidden state of each sequence, ``(B, dim)``, into float32 logits ``(B, vocab)``."""


@dataclass(frozen=True)
class _DecodeGraph:
    """The CUDA graph of one batch size B, and the tensors that it reads and writes, all on the GPU.

    Attributes:
        graph: what is replayed.
        hidden: ``(B, dim)``, what it reads.
        where: int64 ``(2, B)``, their slots and their positions.
        logits: float32 ``(B, vocab)``, what it writes.
    """

    graph: torch.cuda.CUDAGraph
    hidden: torch.Tensor
    where: torch.Tensor
    logits: torch.Tensor


class DecodeGraphs:
    """Steps of one new position for each of some slots, as CUDA graphs.

    Capturing takes the GPU's memory for the largest bucket's intermediate results once, and some tenths of a second a
    bucket.

    Args:
        model: on a GPU, and prepared.
        cache: empty; position 0 of its first slot is zero again afterwards.
    """

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._model, self._cache = model, cache
        self._freqs_cis = model.freqs_cis  # the graphs read it: it must not go, should the model make another
        pool = torch.cuda.graph_pool_handle()
        # From the largest down, so that the others find its memory and ask for none.
        self._graphs = {size: self._capture(size, pool) for size in reversed(buckets(cache.n_slots))}
        cache.slot(0).clear(1)

    @staticmethod
    def suits(model: Decoder) -> bool:
        """Whether this GPU, dtype and head width are those that flash attention is made for."""
        weight, width = model.first_weight, model.args.head_dim
        if not weight.is_cuda or torch.cuda.get_device_capability(weight.device) < OLDEST_GPU:
            return False
        return weight.dtype in (torch.bfloat16, torch.float16) and width <= WIDEST_HEAD and width % 8 == 0

    def fits(self, batch_size: int) -> bool:
        """Tell whether a batch of this size has a graph."""
        return batch_size <= max(self._graphs)

    @torch.inference_mode()
    def __call__(self, slots: Sequence[int], positions: Sequence[int], hidden: torch.Tensor) -> torch.Tensor:
        """Turn hidden states ``(B, dim)``, b at ``positions[b]`` of ``slots[b]``, into float32 logits ``(B, vocab)``.

        They lie where the next step writes its own.
        """
        count = len(slots)
        size = min(size for size in self._graphs if size >= count)
        captured = self._graphs[size]
        # What fills the bucket is the last sequence again: it writes what that one writes, where that one does.
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

        # Once without capturing, and on another stream, as torch asks for: libraries set themselves up on first use.
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
    """Give the batch sizes to capture graphs for, ascending: powers of two, and the most there can be."""
    most = min(slots, MAX_BATCH_SIZE)
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]
