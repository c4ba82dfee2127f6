"""Decoding on a CUDA GPU: whole passes, recorded once and replayed.

Beside reading the weights, a pass of few rows costs the launching of its kernels: some 20 a layer, each in more time
than it runs. A CUDA graph launches all of them at once, and wants every shape and every address to be as when it was
recorded. So there is one for each of a few numbers of rows (*buckets*); the rows, their slots and their positions are
written to where it reads them; and attention takes its lengths from there, too.

Knows: the model, its cache. Does not know: sessions, other ranks (with several, nothing is recorded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llama.model import KVCache, ModelArgs, Positions

MOST_ROWS = 256  # of one recorded pass
OLDEST_GPU = (8, 0)  # Ampere, the first that torch's flash attention runs on
WIDEST_HEAD = 256  # its limit, and a multiple of 8


class Decoder(Protocol):
    """The cloud's half, as far as it matters here."""

    args: ModelArgs
    freqs_cis: torch.Tensor

    @property
    def first_weight(self) -> torch.Tensor:
        """Any weight of the layers, to ask for their dtype and device."""

    def decode_at(self, h: torch.Tensor, positions: Positions, cache: KVCache) -> torch.Tensor:
        """One row ``(B, dim)`` of each sequence to float32 logits ``(B, vocab)``."""


@dataclass(frozen=True)
class _Recording:
    """One pass of B rows, all on the GPU.

    Attributes:
        graph: what is replayed.
        rows: ``(B, dim)``, what it reads.
        where: int64 ``(2, B)``, their slots and their positions.
        logits: float32 ``(B, vocab)``, what it writes.
    """

    graph: torch.cuda.CUDAGraph
    rows: torch.Tensor
    where: torch.Tensor
    logits: torch.Tensor


class DecodeGraphs:
    """Passes of one new row for each of some slots.

    Recording takes the GPU's memory for the largest bucket's intermediate results once, and some tenths of a second a
    bucket.

    Args:
        model: on a GPU, and prepared.
        cache: empty; position 0 of its first slot is zero again afterwards.
    """

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._model, self._cache = model, cache
        self._table = model.freqs_cis  # the recordings read it: it must not go, should the model make another
        pool = torch.cuda.graph_pool_handle()
        # From the largest down, so that the others find its memory and ask for none.
        self._recordings = {size: self._record(size, pool) for size in reversed(buckets(cache.keys_values.shape[2]))}
        cache.row(0).clear(1)

    @staticmethod
    def suits(model: Decoder) -> bool:
        """Whether this GPU, dtype and head width are those that flash attention is made for."""
        weight, width = model.first_weight, model.args.head_dim
        if not weight.is_cuda or torch.cuda.get_device_capability(weight.device) < OLDEST_GPU:
            return False
        return weight.dtype in (torch.bfloat16, torch.float16) and width <= WIDEST_HEAD and width % 8 == 0

    def fits(self, rows: int) -> bool:
        """Whether a pass of so many rows is recorded."""
        return rows <= max(self._recordings)

    @torch.inference_mode()
    def __call__(self, slots: Sequence[int], positions: Sequence[int], rows: torch.Tensor) -> torch.Tensor:
        """Rows ``(B, dim)``, b at ``positions[b]`` of ``slots[b]``, to float32 logits ``(B, vocab)``.

        They lie where the next pass writes its own.
        """
        count = len(slots)
        size = min(size for size in self._recordings if size >= count)
        recording = self._recordings[size]
        # What fills the bucket is the last row again: it writes what that one writes, where that one does.
        spare = size - count
        where = torch.tensor([[*slots, *[slots[-1]] * spare], [*positions, *[positions[-1]] * spare]])
        recording.where.copy_(where)
        recording.rows[:count].copy_(rows)
        if spare:
            recording.rows[count:].copy_(recording.rows[count - 1])
        recording.graph.replay()
        return recording.logits[:count]

    @torch.inference_mode()
    def _record(self, size: int, pool: torch.cuda._POOL_HANDLE) -> _Recording:
        weight = self._model.first_weight
        rows = torch.zeros(size, self._model.args.dim, dtype=weight.dtype, device=weight.device)
        where = torch.zeros(2, size, dtype=torch.int64, device=weight.device)

        def decoded() -> torch.Tensor:
            positions = Positions.in_tensors(where[0], where[1], self._table, self._cache)
            return self._model.decode_at(rows, positions, self._cache)

        # Once unrecorded, and not on the usual stream, as torch asks for: libraries set themselves up on first use.
        aside = torch.cuda.Stream(weight.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(weight.device))
        with torch.cuda.stream(aside):
            decoded()
        torch.cuda.current_stream(weight.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits = decoded()
        return _Recording(graph, rows, where, logits)


def buckets(slots: int) -> list[int]:
    """Numbers of rows to record passes for, ascending: powers of two, and the most there can be."""
    most = min(slots, MOST_ROWS)
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]
