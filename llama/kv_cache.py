"""The KV cache, and the metadata of one step's reads and writes.

A cache has *slots*: each holds the keys and values of one sequence. A step takes T new positions of each of B
sequences through the layers. Its metadata is the same for every layer, so it is made once.

Shapes below use B sequences, T new positions, K key/value heads on this rank, S positions of a slot, D head_dim. "T"
as a dtype is the compute dtype (the dtype of the weights).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from llama import parallel
from llama.model_args import ModelArgs


class KVCache:
    """Keys and values of consecutive layers: one tensor ``(layers, 2, slots, K, S, D)``.

    ``slot(i)`` and ``slots(i, j)`` are views: a session's one-slot cache shares memory with the cloud's whole cache.
    Values beyond a slot's current position are read only when sequences of different lengths share a step, and then
    multiplied by a probability of exactly 0. They must therefore be finite. The zeros at the start and :meth:`clear`
    ensure that.
    """

    def __init__(self, keys_values: torch.Tensor) -> None:
        self.keys_values = keys_values

    @classmethod
    def allocate(
        cls,
        n_layers: int,
        args: ModelArgs,
        *,
        batch_size: int,
        max_seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVCache:
        """Return a zeroed cache: ``batch_size`` slots of ``max_seq_len`` positions, this rank's share of the heads."""
        heads = max(args.kv_heads, parallel.world_size()) // parallel.world_size()
        shape = (n_layers, 2, batch_size, heads, max_seq_len, args.head_dim)
        return cls(torch.zeros(shape, dtype=dtype, device=device))

    @staticmethod
    def bytes_per_position(n_layers: int, args: ModelArgs, dtype: torch.dtype, ranks: int) -> int:
        """Return the bytes that one position of one slot takes, on all ranks together."""
        heads = max(args.kv_heads, ranks)  # with more ranks than heads, several ranks hold each head
        return n_layers * 2 * heads * args.head_dim * dtype.itemsize

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return self.keys_values.shape[2]

    def slot(self, index: int) -> KVCache:
        """Return the cache of one slot, as a view."""
        return self.slots(index, index + 1)

    def slots(self, first: int, end: int) -> KVCache:
        """Return the cache of slots ``first … end-1``, as a view."""
        return KVCache(self.keys_values[:, :, first:end])

    def clear(self, end: int) -> None:
        """Zero positions ``0 … end-1`` of every slot, so that no data of a finished sequence remain."""
        self.keys_values[..., :end, :].zero_()

    def by_layer(self, step: StepMetadata) -> Iterator[LayerCache]:
        """Return each layer's part of a step. Making them for all layers at once takes fewer calls."""
        read = self.keys_values[..., : step.end, :]
        keys, values = (read[:, which].flatten(1, 2).unbind(0) for which in (0, 1))
        alike = step.write_at is None and step.flash is None
        written = read[..., step.start_pos[0] :, :] if alike else self.keys_values
        return map(LayerCache, keys, values, written.unbind(0))


class LayerCache(NamedTuple):
    """The parts of a :class:`KVCache` that one layer reads and writes in one step; all are views.

    Attributes:
        keys: ``(slots*K, end, D)``, ``end`` as in :class:`StepMetadata`.
        values: same shape as ``keys``.
        new: place of the new keys and values: ``(2, B, K, T, D)`` if all sequences start at the same position, else
            the whole layer, ``(2, slots, K, S, D)``.
    """

    keys: torch.Tensor
    values: torch.Tensor
    new: torch.Tensor

    def write(self, keys_values: torch.Tensor, step: StepMetadata) -> None:
        """Store the new keys and values ``(B, T, 2, K, D)``."""
        if step.flash is not None:  # fewer operations than by slot and position
            d = keys_values.shape[-1]
            self.new.view(-1, d).index_copy_(0, step.flash.write_at, keys_values.reshape(-1, d))
        elif step.write_at is None:
            self.new.copy_(keys_values.permute(2, 0, 3, 1, 4))
        else:
            slots, positions = step.write_at
            self.new[:, slots, :, positions] = keys_values


@dataclass(frozen=True)
class StepMetadata:
    """Slots and positions of the T new positions of each of B sequences; made once per step, shared by all layers.

    Attributes:
        start_pos: first position of each of the B sequences.
        seqlen: T.
        end: one past the last position of the longest sequence.
        freqs_cis: complex64 ``(1 or B, T, 1, D/2)``, the rotary angles of the new positions.
        mask: T ``(T, end)`` or ``(slots, 1, 1, T, end)`` of 0 and -inf, or None if no position is hidden.
        write_at: int64 ``(B, 1)`` and ``(B, T)``, slot and position of each new entry, if the sequences start at
            different positions or do not fill all slots of the cache. None otherwise, and with ``flash``.
        idle_slots: whether the cache has slots that take no part in the step.
        flash: input of flash attention, if only the GPU knows the slots and positions.
    """

    start_pos: Sequence[int]
    seqlen: int
    end: int
    freqs_cis: torch.Tensor
    mask: torch.Tensor | None
    write_at: tuple[torch.Tensor, torch.Tensor] | None = None
    idle_slots: bool = False
    flash: FlashMetadata | None = None

    @classmethod
    def of(
        cls,
        start_pos: Sequence[int],
        seqlen: int,
        freqs_cis: torch.Tensor,
        cache: KVCache,
        slots: Sequence[int] | None = None,
    ) -> StepMetadata:
        """Make the metadata of sequences that start at ``start_pos`` and have ``seqlen`` new positions each.

        Args:
            start_pos: one per sequence.
            seqlen: T.
            freqs_cis: the rotary angles of all positions, ``(S or more, D/2)``.
            cache: the cache of the sequences.
            slots: the sequences' slots, in ascending order; None means all.
        """
        assert slots is not None or len(start_pos) == cache.n_slots  # otherwise other slots would be read and written
        first, end = start_pos[0], max(start_pos) + seqlen
        if slots is None and all(start == first for start in start_pos):
            mask = None
            if seqlen > 1:
                like = cache.keys_values
                mask = torch.full((seqlen, seqlen), float("-inf"), dtype=like.dtype, device=like.device).triu(1)
                mask = torch.cat([mask.new_zeros(seqlen, first), mask], dim=1)
            return cls(start_pos, seqlen, end, freqs_cis[first:end][None, :, None], mask)
        return cls._of_some(start_pos, seqlen, freqs_cis, cache, range(len(start_pos)) if slots is None else slots)

    @classmethod
    def _of_some(
        cls, start_pos: Sequence[int], seqlen: int, freqs_cis: torch.Tensor, cache: KVCache, slots: Sequence[int]
    ) -> StepMetadata:
        """Make the metadata as :meth:`of` does, for different start positions or a part of the cache's slots."""
        device, dtype, end = cache.keys_values.device, cache.keys_values.dtype, max(start_pos) + seqlen
        start_of_slot = [0] * cache.n_slots  # an idle slot attends to its first position, which always exists
        for slot, start in zip(slots, start_pos, strict=True):
            start_of_slot[slot] = start
        positions = torch.tensor(start_of_slot, device=device)[:, None] + torch.arange(seqlen, device=device)
        hidden = torch.arange(end, device=device) > positions[..., None]  # (slots, T, end)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
        of_sequence = torch.tensor(list(slots), device=device)[:, None]
        positions = positions[of_sequence[:, 0]]
        return cls(
            start_pos,
            seqlen,
            end,
            freqs_cis[positions][:, :, None],
            mask[:, None, None],
            write_at=(of_sequence, positions),
            idle_slots=cache.n_slots > len(slots),
        )

    @classmethod
    def for_cuda_graph(
        cls, slots: torch.Tensor, positions: torch.Tensor, freqs_cis: torch.Tensor, cache: KVCache
    ) -> StepMetadata:
        """Make the metadata of one new position ``positions[b]`` of slot ``slots[b]`` each, from tensors on the GPU.

        Both are int64 ``(B,)``, and may be changed before each replay. This method never waits for their values, so a
        CUDA graph can capture it.
        """
        n_slots, kv_heads, length = cache.keys_values.shape[2:5]
        begins = (slots[:, None] * kv_heads + torch.arange(kv_heads, device=positions.device)) * length
        write_keys_at = begins + positions[:, None]
        flash = FlashMetadata(
            groups=torch.arange(begins.numel() + 1, dtype=torch.int32, device=positions.device),
            begins=F.pad(begins.flatten(), (0, 1)).int(),
            used=(positions + 1).repeat_interleave(kv_heads).int(),
            write_at=torch.stack([write_keys_at, write_keys_at + n_slots * kv_heads * length], dim=1).flatten(),
        )
        return cls([0] * len(positions), 1, length, freqs_cis[positions][:, None, None], mask=None, flash=flash)


class FlashMetadata(NamedTuple):
    """The part of a layer's cache that each query group of flash attention reads, in the order of slots and heads.

    A group is one sequence's query heads that share a key head. The tensors are int32 on the GPU, except ``write_at``.

    Attributes:
        groups: ``(B*K + 1,)``, 0 … B*K.
        begins: ``(B*K + 1,)``, start of each group's keys, in positions from the cache's start; the last entry is
            unused.
        used: ``(B*K,)``, number of keys of each group.
        write_at: int64 ``(B*2*K,)``, places of the new keys and values, in the same unit: a sequence's keys, its
            values, the next sequence's keys …
    """

    groups: torch.Tensor
    begins: torch.Tensor
    used: torch.Tensor
    write_at: torch.Tensor
