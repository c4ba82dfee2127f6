"""Meta's Llama blocks: what both halves of the model are built from.

Names, shapes and the order of operations are those of Meta's PyTorch reference (github.com/meta-llama/llama3,
``llama/model.py``, and github.com/meta-llama/llama-models for the scaled rotary embedding), so that released
checkpoints load unchanged and the same weights give the same numbers. What differs, and why:

* caches are passed into ``forward``, with a start position per row, so that rows of different ages can share a batch;
* keys and values are read by groups of query heads instead of being repeated for each head;
* weights that are multiplied by the same rows (wq, wk, wv; w1, w3) lie side by side and are multiplied at once;
* layers are numbered as in the whole model wherever the cut lies.

What decoding costs beside reading the weights is calls: some thousand a token. So the layers pass on ``(B*T, dim)``,
which is multiplied without being viewed as something else first; what they multiply by is made ready once, by
``prepare``; and they call each other's ``forward``, which spares torch's search for hooks.

Shapes below use B rows (sequences), T new positions, S cached positions, H query heads and K key/value heads on this
rank, D head_dim. "T" as a dtype is the compute dtype, that of the weights.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from llama import parallel
from llama.parallel import ColumnParallelLinear, RowParallelLinear, side_by_side
from llama.stages import StageClock

# Llama 3.1's frequency scaling (llama-models, `apply_scaling`).
LOW_FREQ_FACTOR = 1.0
HIGH_FREQ_FACTOR = 4.0
OLD_CONTEXT_LEN = 8192


@dataclass(frozen=True)
class ModelArgs:
    """Meta's hyperparameters, under Meta's names, with Meta's defaults."""

    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None  # None: as many as n_heads
    vocab_size: int = -1  # -1: the tokenizer's
    multiple_of: int = 256  # the feed-forward width is rounded up to a multiple of this
    ffn_dim_multiplier: float | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    use_scaled_rope: bool = False
    rope_scaling_factor: float = 8.0  # Llama 3.1 and 3.3; 32 for the 1B and 3B of Llama 3.2
    max_batch_size: int = 32
    max_seq_len: int = 2048

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, never None."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the feed-forward layer by Meta's rule."""
        hidden = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return self.multiple_of * ((hidden + self.multiple_of - 1) // self.multiple_of)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension; computed in float32, scaled by ``weight`` in T."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.empty(dim))

    def prepare(self, for_good: bool = False) -> None:
        """To be called when the weight has got its place."""
        self._weight = self.weight.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(…, dim)`` to the same shape and dtype."""
        if x.dtype is torch.float32 and x.numel() == self.dim and x.is_cpu:  # one row: the shorter way
            row = x.view(-1)
            return (x * (1 / math.sqrt(torch.dot(row, row).item() / self.dim + self.eps))).mul_(self._weight)
        if x.is_cuda:  # one kernel, which computes in float32; the weight is Meta's own product after it, in T
            return F.rms_norm(x, (self.dim,), None, self.eps) * self._weight
        # Spelt out, since torch's rms_norm is made of more operations than these on the CPU.
        wide = in_float32(x)
        scale = wide.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()
        return in_dtype_of(x, wide * scale) * self._weight


def scale_freqs(freqs: torch.Tensor, factor: float) -> torch.Tensor:
    """Llama 3.1's scaling of the rotary frequencies ``(D/2,)``: long waves slowed by ``factor``, short ones kept."""
    wavelengths = 2 * math.pi / freqs
    smooth = (OLD_CONTEXT_LEN / wavelengths - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR)
    blended = (1 - smooth) * freqs / factor + smooth * freqs
    scaled = torch.where(wavelengths > OLD_CONTEXT_LEN / LOW_FREQ_FACTOR, freqs / factor, blended)
    return torch.where(wavelengths < OLD_CONTEXT_LEN / HIGH_FREQ_FACTOR, freqs, scaled)


def precompute_freqs_cis(
    dim: int, end: int, theta: float = 10000.0, use_scaled: bool = False, factor: float = 8.0
) -> torch.Tensor:
    """The rotary table: complex64 ``(end, dim/2)``, row p holding ``exp(i · p · frequency)``.

    Args:
        dim: head_dim.
        end: number of positions.
        theta: base of the frequencies.
        use_scaled: apply Llama 3.1's scaling.
        factor: of that scaling.
    """
    freqs = 1.0 / (theta ** (torch.arange(0, dim, 2)[: dim // 2].float() / dim))
    if use_scaled:
        freqs = scale_freqs(freqs, factor)
    angles = torch.outer(torch.arange(end, dtype=torch.float32), freqs)
    return torch.polar(torch.ones_like(angles), angles)


def apply_rotary_emb_(x: torch.Tensor, freqs_cis: torch.Tensor) -> None:
    """Turn adjacent pairs of ``x`` ``(B, T, heads, D)`` by ``freqs_cis`` ``(1 or B, T, 1, D/2)`` in place.

    Computed in float32. ``x`` may be some of the heads of a larger tensor.
    """
    pairs = (*x.shape[:-1], x.shape[-1] // 2, 2)
    if x.dtype is torch.float32:
        torch.view_as_complex(x.view(pairs)).mul_(freqs_cis)
    else:
        turned = torch.view_as_complex(x.float().view(pairs)).mul_(freqs_cis)
        x.copy_(torch.view_as_real(turned).flatten(-2))


def in_float32(x: torch.Tensor) -> torch.Tensor:
    """``x.float()``, without a call into torch when there is nothing to do: decoding makes hundreds of them a token."""
    return x if x.dtype is torch.float32 else x.float()


def in_dtype_of(like: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``x.type_as(like)``, without a call into torch when there is nothing to do."""
    return x if x.dtype is like.dtype else x.to(like.dtype)


class LayerCache(NamedTuple):
    """What one layer reads and writes in one step; all views of a :class:`KVCache`.

    Attributes:
        keys: ``(B*K, end, D)``, ``end`` as in :class:`Positions`; with ``lengths``, of all rows.
        values: of the same shape.
        new: keys and values of the new positions, ``(2, B, K, T, D)``; of all, where rows differ in their positions.
    """

    keys: torch.Tensor
    values: torch.Tensor
    new: torch.Tensor

    def write(self, keys_values: torch.Tensor, positions: Positions) -> None:
        """Keep the new keys and values ``(B, T, 2, K, D)``."""
        if positions.lengths is not None:  # in fewer steps than by row and position
            d = keys_values.shape[-1]
            self.new.view(-1, d).index_copy_(0, positions.lengths.new, keys_values.reshape(-1, d))
        elif positions.where is None:
            self.new.copy_(keys_values.permute(2, 0, 3, 1, 4))
        else:
            rows, at = positions.where
            self.new[:, rows, :, at] = keys_values


class KVCache:
    """Keys and values of consecutive layers for some rows: one tensor ``(layers, 2, rows, K, S, D)``.

    ``row(i)`` and ``rows(i, j)`` are views, so a session's one-row cache and the cloud's whole one are the same memory.
    Content beyond a row's current position is never read by that row, except multiplied by a probability of exactly 0
    when rows of different ages share a step; it must therefore be finite, which zeros at the start and :meth:`clear`
    ensure.
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
        """Zeros for ``batch_size`` rows of ``max_seq_len`` positions; this rank's share of the heads."""
        heads = max(args.kv_heads, parallel.world_size()) // parallel.world_size()
        shape = (n_layers, 2, batch_size, heads, max_seq_len, args.head_dim)
        return cls(torch.zeros(shape, dtype=dtype, device=device))

    @staticmethod
    def bytes_per_position(n_layers: int, args: ModelArgs, dtype: torch.dtype, ranks: int) -> int:
        """What one position of one row takes, on all ranks together."""
        heads = max(args.kv_heads, ranks)  # more ranks than heads: each head lives on several
        return n_layers * 2 * heads * args.head_dim * dtype.itemsize

    def row(self, index: int) -> KVCache:
        """The cache of one row, as a view."""
        return self.rows(index, index + 1)

    def rows(self, first: int, end: int) -> KVCache:
        """The cache of rows ``first … end-1``, as a view."""
        return KVCache(self.keys_values[:, :, first:end])

    def clear(self, end: int) -> None:
        """Zero positions ``0 … end-1`` of every row, so that nothing of a finished sequence stays behind."""
        self.keys_values[..., :end, :].zero_()

    def by_layer(self, positions: Positions) -> Iterator[LayerCache]:
        """Each layer's part in a step at ``positions``, made for all layers at once: that is fewer calls."""
        read = self.keys_values[..., : positions.end, :]
        keys, values = (read[:, which].flatten(1, 2).unbind(0) for which in (0, 1))
        alike = positions.where is None and positions.lengths is None
        written = read[..., positions.start[0] :, :] if alike else self.keys_values
        return map(LayerCache, keys, values, written.unbind(0))


class Lengths(NamedTuple):
    """What each query group of flash attention is to read of a layer's cache, rows and heads one after another.

    A group is one row's query heads that share a key head; int32, on the GPU.

    Attributes:
        groups: ``(B*K + 1,)``, 0 … B*K.
        begins: ``(B*K + 1,)``, where each group's keys begin, counted in positions from the cache's start; the last
            stands for nothing.
        used: ``(B*K,)``, how many there are.
        new: int64 ``(B*2*K,)``, where the new keys and values belong, counted in the same way: those of a row's keys,
            of its values, of the next row's keys …
    """

    groups: torch.Tensor
    begins: torch.Tensor
    used: torch.Tensor
    new: torch.Tensor


@dataclass(frozen=True)
class Positions:
    """Where the T new positions of each row lie; made once per step and shared by all layers.

    Attributes:
        start: first position of each of the B rows.
        length: T.
        end: one past the last position of the longest row.
        freqs_cis: complex64 ``(1 or B, T, 1, D/2)``.
        mask: T ``(T, end)`` or ``(B, 1, 1, T, end)`` of 0 and -inf, or None when nothing is hidden.
        where: for rows that differ, int64 ``(B, 1)`` and ``(B, T)``: row and position of each new entry. None also with
            ``lengths``.
        among: where the cache has further rows, which have no part in the step: how many it has in all.
        lengths: where only the GPU knows the rows and positions, what its attention is to read.
    """

    start: Sequence[int]
    length: int
    end: int
    freqs_cis: torch.Tensor
    mask: torch.Tensor | None
    where: tuple[torch.Tensor, torch.Tensor] | None
    among: int | None = None
    lengths: Lengths | None = None

    @classmethod
    def in_tensors(cls, rows: torch.Tensor, at: torch.Tensor, table: torch.Tensor, cache: KVCache) -> Positions:
        """One new position ``at[b]`` of row ``rows[b]`` each, both int64 ``(B,)`` on a CUDA GPU that may change them.

        Nothing here waits for what they hold, so that a CUDA graph can be made of it.
        """
        among, kv_heads, end = cache.keys_values.shape[2:5]
        begins = (rows[:, None] * kv_heads + torch.arange(kv_heads, device=at.device)) * end
        groups = torch.arange(begins.numel() + 1, dtype=torch.int32, device=at.device)
        of_keys = begins + at[:, None]
        lengths = Lengths(
            groups, F.pad(begins.flatten(), (0, 1)).int(), (at + 1).repeat_interleave(kv_heads).int(),
            torch.stack([of_keys, of_keys + among * kv_heads * end], dim=1).flatten(),
        )  # fmt: skip
        return cls([0] * len(at), 1, end, table[at][:, None, None], None, None, lengths=lengths)

    @classmethod
    def of(
        cls, start: Sequence[int], length: int, table: torch.Tensor, dtype: torch.dtype,
        rows: Sequence[int] | None = None, among: int = 0,
    ) -> Positions:  # fmt: skip
        """Rows starting at ``start`` with ``length`` new positions each, rotated by rows of ``table``.

        ``rows`` says which of the cache's ``among`` rows they are, in ascending order; None is all.
        """
        if rows is not None:
            return cls._of_some(start, length, table, dtype, rows, among)
        device, first, end = table.device, start[0], max(start) + length
        if all(s == first for s in start):
            mask = None
            if length > 1:
                mask = torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu(1)
                mask = torch.cat([mask.new_zeros(length, first), mask], dim=1)
            return cls(start, length, end, table[first:end][None, :, None], mask, None)
        return cls._of_some(start, length, table, dtype, range(len(start)), len(start))

    @classmethod
    def _of_some(
        cls, start: Sequence[int], length: int, table: torch.Tensor, dtype: torch.dtype, rows: Sequence[int], among: int
    ) -> Positions:
        """Rows that differ in where they start, or that are not all of the cache's."""
        device, end = table.device, max(start) + length
        everywhere = [0] * among  # a row without a part in the step looks at its first position: that is never empty
        for row, first in zip(rows, start, strict=True):
            everywhere[row] = first
        at = torch.tensor(everywhere, device=device)[:, None] + torch.arange(length, device=device)  # (among, T)
        hidden = torch.arange(end, device=device) > at[..., None]  # (among, T, end)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
        which = torch.tensor(list(rows), device=device)[:, None]
        at = at[which[:, 0]]
        others = among if among > len(rows) else None
        return cls(start, length, end, table[at][:, :, None], mask[:, None, None], (which, at), others)


def flash_attention(xq: torch.Tensor, cache: LayerCache, lengths: Lengths) -> torch.Tensor:
    """Attention of one new position of each row, ``(B*K, rep, D)`` to the same shape; float16 or bfloat16, on CUDA.

    torch's flash attention over sequences of different lengths, called where they lie in the cache. Each key head of
    each row is a sequence of its own, so that none of them need be copied, and none is read beyond its length.
    """
    keys, values = (each.view(-1, 1, each.shape[-1]) for each in (cache.keys, cache.values))
    # Not torch.nn.attention.varlen, which is this call and one more kernel, and in torch 2.11 takes no lengths.
    output: torch.Tensor = torch.ops.aten._flash_attention_forward(
        xq, keys, values, lengths.groups, lengths.begins, 1, cache.keys.shape[1], 0.0, False, False,
        scale=xq.shape[-1] ** -0.5, seqused_k=lengths.used,
    )[0]  # fmt: skip
    return output


class Attention(nn.Module):
    """Grouped-query attention with rotary positions over a cache; this rank holds H = n_heads / ranks query heads."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        ranks = parallel.world_size()
        # With more ranks than key/value heads, each head is stored once per rank that needs it.
        stored_kv_heads = max(args.kv_heads, ranks)
        self.head_dim = args.head_dim
        self.sqrt_head_dim = math.sqrt(args.head_dim)
        self.n_local_heads = args.n_heads // ranks
        self.n_local_kv_heads = stored_kv_heads // ranks
        self.n_rep = self.n_local_heads // self.n_local_kv_heads
        self.wq = ColumnParallelLinear(args.dim, args.n_heads * args.head_dim)
        self.wk = ColumnParallelLinear(args.dim, stored_kv_heads * args.head_dim)
        self.wv = ColumnParallelLinear(args.dim, stored_kv_heads * args.head_dim)
        self.wo = RowParallelLinear(args.n_heads * args.head_dim, args.dim)
        self._reduce = ranks > 1

    def prepare(self, for_good: bool = False) -> None:
        """To be called when the weights have got their places."""
        self._wq_wk_wv = side_by_side(self.wq, self.wk, self.wv, for_good=for_good)
        self._wo = side_by_side(self.wo, for_good=for_good)

    def forward(self, x: torch.Tensor, positions: Positions, cache: LayerCache) -> torch.Tensor:
        """``(B*T, dim)`` to the same shape; keys and values of the new positions are written to the cache."""
        b, t = len(positions.start), positions.length
        heads, kv_heads, rep, d = self.n_local_heads, self.n_local_kv_heads, self.n_rep, self.head_dim

        xq_xk_xv = self._wq_wk_wv(x).view(b, t, heads + 2 * kv_heads, d)
        apply_rotary_emb_(xq_xk_xv[:, :, : heads + kv_heads], positions.freqs_cis)
        cache.write(xq_xk_xv[:, :, heads:].view(b, t, 2, kv_heads, d), positions)

        xq = xq_xk_xv[:, :, :heads]
        if positions.lengths is not None:
            output = flash_attention(xq.reshape(b * kv_heads, rep, d), cache, positions.lengths).view(b, heads * d)
        else:
            output = self._attend(xq, positions, cache)
        output = self._wo(output)
        return parallel.reduce(output) if self._reduce else output

    def _attend(self, xq: torch.Tensor, positions: Positions, cache: LayerCache) -> torch.Tensor:
        """What each query ``(B, T, H, D)`` finds among the cached positions that it may see, ``(B*T, H*D)``."""
        b, t, heads, d = xq.shape
        kv_heads, rep = self.n_local_kv_heads, self.n_rep
        part = None
        if positions.among is not None and positions.where is not None:  # the cache's other rows ask for nothing
            part, b = positions.where[0][:, 0], positions.among
            xq = xq.new_zeros(b, t, heads, d).index_copy_(0, part, xq)
        # The `rep` query heads that share a key head are rows of one product: (B*K, rep*T, D).
        if t == 1:
            xq = xq.reshape(b * kv_heads, rep, d)
        else:
            xq = xq.view(b, t, kv_heads, rep, d).permute(0, 2, 3, 1, 4).reshape(b * kv_heads, rep * t, d)
        scores = torch.bmm(xq, cache.keys.transpose(1, 2)).div_(self.sqrt_head_dim)  # (B*K, rep*T, end)
        if positions.mask is not None:
            scores.view(b, kv_heads, rep, t, positions.end).add_(positions.mask)
        scores = torch.softmax(scores, dim=-1, dtype=torch.float32)
        output = torch.bmm(in_dtype_of(xq, scores), cache.values)  # (B*K, rep*T, D)
        if t == 1:
            output = output.view(b, heads * d)
        else:
            output = output.view(b, kv_heads, rep, t, d).permute(0, 3, 1, 2, 4).reshape(b * t, heads * d)
        if part is not None:
            output = output.view(b, t, heads * d).index_select(0, part).flatten(0, 1)
        return output


class FeedForward(nn.Module):
    """SwiGLU: ``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.w1 = ColumnParallelLinear(args.dim, args.hidden_dim)
        self.w2 = RowParallelLinear(args.hidden_dim, args.dim)
        self.w3 = ColumnParallelLinear(args.dim, args.hidden_dim)
        self._reduce = parallel.world_size() > 1

    def prepare(self, for_good: bool = False) -> None:
        """To be called when the weights have got their places."""
        self._w1_w3 = side_by_side(self.w1, self.w3, for_good=for_good)
        self._w2 = side_by_side(self.w2, for_good=for_good)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B*T, dim)`` to the same shape."""
        gate, up = self._w1_w3(x).chunk(2, dim=-1)
        output = self._w2(F.silu(gate).mul_(up))
        return parallel.reduce(output) if self._reduce else output


class TransformerBlock(nn.Module):
    """One layer: attention and feed-forward, each normalised before and added to the residual stream after."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args.dim, eps=args.norm_eps)
        self.ffn_norm = RMSNorm(args.dim, eps=args.norm_eps)
        self._parts = (self.attention_norm, self.attention, self.ffn_norm, self.feed_forward)

    def forward(self, x: torch.Tensor, positions: Positions, cache: LayerCache) -> torch.Tensor:
        """``(B*T, dim)`` to the same shape."""
        attention_norm, attention, ffn_norm, feed_forward = self._parts
        h = x + attention.forward(attention_norm.forward(x), positions, cache)
        return h + feed_forward.forward(ffn_norm.forward(h))


class TransformerLayers(nn.Module):
    """A run of consecutive layers, keyed by their number in the whole model; base of both halves."""

    def __init__(self, args: ModelArgs, layer_ids: Iterable[int]) -> None:
        super().__init__()
        self.args = args
        self.layers = nn.ModuleDict({str(i): TransformerBlock(args) for i in layer_ids})
        # Not a buffer, so that it stays complex64 whatever dtype the module is cast to.
        self.freqs_cis = torch.empty(0, args.head_dim // 2, dtype=torch.complex64)
        self._freqs_cis_lock = threading.Lock()
        self._prepared_at: int | None = None

    def prepare(self, for_good: bool = False) -> None:
        """Make ready what is multiplied by: to be called when all weights have got their places.

        A forward does it by itself where that has not been done, or where all weights were replaced or moved since. It
        looks at one weight only, whose old place stays taken meanwhile, so that the new one is another. ``for_good``,
        which is faster and which a forward does not do by itself, makes the matrices' weights unreadable: they can be
        replaced, all of them, but neither moved nor saved.
        """
        for part in self.modules():
            if isinstance(part, RMSNorm | Attention | FeedForward):
                part.prepare(for_good)
        self._prepared_at = self.first_weight.data_ptr()

    @property
    def first_weight(self) -> torch.Tensor:
        """Any weight of the layers, to ask for their dtype and device."""
        first = next(iter(self.layers.values()))
        assert isinstance(first, TransformerBlock)
        return first.attention_norm.weight

    def new_cache(self, batch_size: int, max_seq_len: int) -> KVCache:
        """A cache for this part's layers, in the weights' dtype and on their device."""
        weight = self.first_weight
        with self._freqs_cis_lock:  # or the shorter of two that are made at once might stay
            if len(self.freqs_cis) < max_seq_len or self.freqs_cis.device != weight.device:
                a = self.args
                table = precompute_freqs_cis(
                    a.head_dim, max_seq_len, a.rope_theta, a.use_scaled_rope, a.rope_scaling_factor
                )
                self.freqs_cis = table.to(weight.device)
        return KVCache.allocate(
            len(self.layers), self.args, batch_size=batch_size, max_seq_len=max_seq_len,
            dtype=weight.dtype, device=weight.device,
        )  # fmt: skip

    def run_layers(
        self, h: torch.Tensor, start_pos: Sequence[int], cache: KVCache, clock: StageClock | None = None,
        rows: Sequence[int] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Residual stream ``(B, T, dim)`` through the layers; row b's first position is ``start_pos[b]``.

        ``clock`` is stopped after each layer. ``rows``, ascending, are the cache's rows that have a part; None is all.
        """
        if self._prepared_at != self.first_weight.data_ptr():
            self.prepare()
        b, t, dim = h.shape
        among = cache.keys_values.shape[2]
        positions = Positions.of(start_pos, t, self.freqs_cis, h.dtype, rows, among)
        return self.run_layers_at(h.reshape(b * t, dim), positions, cache, clock).view(b, t, dim)

    def run_layers_at(
        self, h: torch.Tensor, positions: Positions, cache: KVCache, clock: StageClock | None = None
    ) -> torch.Tensor:
        """As :meth:`run_layers`, of ``(B*T, dim)`` and at positions that are known already; prepared."""
        for layer, layer_cache in zip(self.layers.values(), cache.by_layer(positions), strict=True):
            h = layer.forward(h, positions, layer_cache)
            if clock is not None:
                clock.stop()
        return h
