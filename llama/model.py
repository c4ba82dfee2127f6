"""Meta's Llama blocks: what both halves of the model are built from.

Names, shapes and the order of operations are those of Meta's PyTorch reference (github.com/meta-llama/llama3,
``llama/model.py``, and github.com/meta-llama/llama-models for the scaled rotary embedding), so that released
checkpoints load unchanged and the same weights give the same numbers. What differs, and why:

* caches are passed into ``forward``, with a start position per row, so that rows of different ages can share a batch;
* keys and values are read by groups of query heads instead of being repeated for each head;
* layers are numbered as in the whole model wherever the cut lies.

Shapes below use B rows (sequences), T new positions, S cached positions, H query heads and K key/value heads on this
rank, D head_dim. "T" as a dtype is the compute dtype, that of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from llama import parallel
from llama.parallel import ColumnParallelLinear, RowParallelLinear

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
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(…, dim)`` to the same shape and dtype."""
        # Not with rms_norm's own weight: that one is multiplied before the cast back to T, Meta's after it.
        return F.rms_norm(x, self.weight.shape, None, self.eps) * self.weight


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


def apply_rotary_emb(x: torch.Tensor, freqs_cis: torch.Tensor) -> torch.Tensor:
    """Turn adjacent pairs of ``x`` ``(B, T, heads, D)`` by ``freqs_cis`` ``(1 or B, T, 1, D/2)``; float32 inside."""
    b, t, heads, d = x.shape
    pairs = torch.view_as_complex(in_float32(x).view(b, t, heads, d // 2, 2))
    return in_dtype_of(x, torch.view_as_real(pairs * freqs_cis).view(b, t, heads, d))


def in_float32(x: torch.Tensor) -> torch.Tensor:
    """``x.float()``, without a call into torch when there is nothing to do: decoding makes hundreds of them a token."""
    return x if x.dtype is torch.float32 else x.float()


def in_dtype_of(like: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``x.type_as(like)``, without a call into torch when there is nothing to do."""
    return x if x.dtype is like.dtype else x.to(like.dtype)


class KVCache:
    """Keys and values of some layers for some rows: per layer two tensors ``(rows, K, max_seq_len, D)``.

    ``rows(i)`` is a view, so a session's one-row cache and the cloud's whole cache are the same memory. Content beyond
    a row's current position is never read by that row, except multiplied by a probability of exactly 0 when rows of
    different ages share a step; it must therefore be finite, which zeros at the start and :meth:`clear` ensure.
    """

    def __init__(self, layers: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.layers = layers

    @classmethod
    def allocate(
        cls,
        layer_ids: Iterable[int],
        args: ModelArgs,
        *,
        batch_size: int,
        max_seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVCache:
        """Zeros for ``batch_size`` rows of ``max_seq_len`` positions; this rank's share of the heads."""
        heads = max(1, args.kv_heads // parallel.world_size())  # more ranks than heads: each head lives on several
        shape = (batch_size, heads, max_seq_len, args.head_dim)

        def zeros() -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls({i: (zeros(), zeros()) for i in layer_ids})

    def row(self, index: int) -> KVCache:
        """The cache of one row, as a view."""
        return KVCache({i: (k[index : index + 1], v[index : index + 1]) for i, (k, v) in self.layers.items()})

    def clear(self, end: int) -> None:
        """Zero positions ``0 … end-1`` of every row, so that nothing of a finished sequence stays behind."""
        for k, v in self.layers.values():
            k[:, :, :end].zero_()
            v[:, :, :end].zero_()


@dataclass(frozen=True)
class Positions:
    """Where the T new positions of each row lie; made once per step and shared by all layers.

    Attributes:
        start: first position of each row.
        uniform: all rows start at the same position (always so for one row).
        end: one past the last position of the longest row.
        freqs_cis: complex64 ``(1 or B, T, 1, D/2)``.
        mask: T ``(T, end)`` or ``(B, 1, 1, T, end)`` of 0 and -inf, or None when nothing is hidden.
        where: for rows that differ, int64 ``(B, 1)`` and ``(B, T)``: row and position of each new entry.
    """

    start: Sequence[int]
    uniform: bool
    end: int
    freqs_cis: torch.Tensor
    mask: torch.Tensor | None
    where: tuple[torch.Tensor, torch.Tensor] | None

    @classmethod
    def of(cls, start: Sequence[int], length: int, table: torch.Tensor, dtype: torch.dtype) -> Positions:
        """Rows starting at ``start`` with ``length`` new positions each, rotated by rows of ``table``."""
        device, first, end = table.device, start[0], max(start) + length
        if all(s == first for s in start):
            mask = None
            if length > 1:
                mask = torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu(1)
                mask = torch.cat([mask.new_zeros(length, first), mask], dim=1)
            return cls(start, True, end, table[first:end][None, :, None], mask, None)
        at = torch.tensor(list(start), device=device)[:, None] + torch.arange(length, device=device)  # (B, T)
        hidden = torch.arange(end, device=device) > at[..., None]  # (B, T, end)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
        rows = torch.arange(len(start), device=device)[:, None]
        return cls(start, False, end, table[at][:, :, None], mask[:, None, None], (rows, at))


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
        self.wq = ColumnParallelLinear(args.dim, args.n_heads * args.head_dim, gather_output=False)
        self.wk = ColumnParallelLinear(args.dim, stored_kv_heads * args.head_dim, gather_output=False)
        self.wv = ColumnParallelLinear(args.dim, stored_kv_heads * args.head_dim, gather_output=False)
        self.wo = RowParallelLinear(args.n_heads * args.head_dim, args.dim)

    def forward(
        self, x: torch.Tensor, positions: Positions, cache_k: torch.Tensor, cache_v: torch.Tensor
    ) -> torch.Tensor:
        """``(B, T, dim)`` to the same shape; writes keys and values ``(B, K, S, D)`` of the new positions."""
        b, t, _ = x.shape
        heads, kv_heads, rep, d = self.n_local_heads, self.n_local_kv_heads, self.n_rep, self.head_dim

        xq = apply_rotary_emb(self.wq(x).view(b, t, heads, d), positions.freqs_cis)
        xk = apply_rotary_emb(self.wk(x).view(b, t, kv_heads, d), positions.freqs_cis)
        xv = self.wv(x).view(b, t, kv_heads, d)
        if positions.where is None:
            cache_k.narrow(2, positions.start[0], t).copy_(xk.transpose(1, 2))
            cache_v.narrow(2, positions.start[0], t).copy_(xv.transpose(1, 2))
        else:
            rows, at = positions.where
            cache_k[rows, :, at] = xk
            cache_v[rows, :, at] = xv
        keys = cache_k.narrow(2, 0, positions.end).flatten(0, 1)  # (B*K, S, D), a view
        values = cache_v.narrow(2, 0, positions.end).flatten(0, 1)

        # The `rep` query heads that share a key head are rows of one product: (B*K, rep*T, D).
        if t == 1:
            xq = xq.view(b * kv_heads, rep, d)
        else:
            xq = xq.view(b, t, kv_heads, rep, d).permute(0, 2, 3, 1, 4).reshape(b * kv_heads, rep * t, d)
        scores = torch.bmm(xq, keys.transpose(1, 2)).div_(self.sqrt_head_dim)  # (B*K, rep*T, S)
        if positions.mask is not None:
            scores.view(b, kv_heads, rep, t, positions.end).add_(positions.mask)
        scores = torch.softmax(scores, dim=-1, dtype=torch.float32)
        output = torch.bmm(in_dtype_of(xq, scores), values)  # (B*K, rep*T, D)
        if t == 1:
            output = output.view(b, 1, heads * d)
        else:
            output = output.view(b, kv_heads, rep, t, d).permute(0, 3, 1, 2, 4).reshape(b, t, heads * d)
        projected: torch.Tensor = self.wo(output)
        return projected


class FeedForward(nn.Module):
    """SwiGLU: ``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.w1 = ColumnParallelLinear(args.dim, args.hidden_dim, gather_output=False)
        self.w2 = RowParallelLinear(args.hidden_dim, args.dim)
        self.w3 = ColumnParallelLinear(args.dim, args.hidden_dim, gather_output=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, T, dim)`` to the same shape."""
        output: torch.Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return output


class TransformerBlock(nn.Module):
    """One layer: attention and feed-forward, each normalised before and added to the residual stream after."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args.dim, eps=args.norm_eps)
        self.ffn_norm = RMSNorm(args.dim, eps=args.norm_eps)

    def forward(
        self, x: torch.Tensor, positions: Positions, cache_k: torch.Tensor, cache_v: torch.Tensor
    ) -> torch.Tensor:
        """``(B, T, dim)`` to the same shape."""
        h = x + self.attention(self.attention_norm(x), positions, cache_k, cache_v)
        output: torch.Tensor = h + self.feed_forward(self.ffn_norm(h))
        return output


class TransformerLayers(nn.Module):
    """A run of consecutive layers, keyed by their number in the whole model; base of both halves."""

    def __init__(self, args: ModelArgs, layer_ids: Iterable[int]) -> None:
        super().__init__()
        self.args = args
        self.layers = nn.ModuleDict({str(i): TransformerBlock(args) for i in layer_ids})
        # Not a buffer, so that it stays complex64 whatever dtype the module is cast to.
        self.freqs_cis = torch.empty(0, args.head_dim // 2, dtype=torch.complex64)

    def new_cache(self, batch_size: int, max_seq_len: int) -> KVCache:
        """A cache for this part's layers, in the weights' dtype and on their device."""
        weight = next(self.layers.parameters())
        if len(self.freqs_cis) < max_seq_len or self.freqs_cis.device != weight.device:
            a = self.args
            table = precompute_freqs_cis(
                a.head_dim, max_seq_len, a.rope_theta, a.use_scaled_rope, a.rope_scaling_factor
            )
            self.freqs_cis = table.to(weight.device)
        return KVCache.allocate(
            map(int, self.layers), self.args, batch_size=batch_size, max_seq_len=max_seq_len,
            dtype=weight.dtype, device=weight.device,
        )  # fmt: skip

    def run_layers(self, h: torch.Tensor, start_pos: Sequence[int], cache: KVCache) -> torch.Tensor:
        """Residual stream ``(B, T, dim)`` through the layers; row b's first position is ``start_pos[b]``."""
        positions = Positions.of(start_pos, h.shape[1], self.freqs_cis, h.dtype)
        for i, layer in self.layers.items():
            cache_k, cache_v = cache.layers[int(i)]
            h = layer(h, positions, cache_k, cache_v)
        return h
