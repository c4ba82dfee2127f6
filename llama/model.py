"""Meta's Llama blocks, shared by both halves of the model.

Names, shapes and the order of operations follow Meta's PyTorch reference (github.com/meta-llama/llama3,
``llama/model.py``, and github.com/meta-llama/llama-models for the scaled rotary embedding). So released checkpoints
load unchanged, and the same weights give the same numbers. The differences:

* ``forward`` takes the cache and a start position per sequence, so that sequences of different lengths can share a
  batch (:mod:`llama.kv_cache`);
* groups of query heads read the keys and values, instead of repeating them for each head (:mod:`llama.attention`);
* weights with the same input (wq, wk, wv; w1, w3) lie side by side and are multiplied at once;
* layers have their numbers in the whole model, wherever it is split.

Beside reading the weights, decoding spends its time on calls: about a thousand per token. Three measures save calls.
The layers pass on ``(B*T, dim)``, which needs no view before a product. ``prepare`` makes the matrices ready once. And
layers call each other's ``forward`` directly, which skips torch's search for hooks.

Shapes below use B sequences, T new positions, S cached positions, H query heads and K key/value heads on this
rank, D head_dim. "T" as a dtype is the compute dtype (the dtype of the weights).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from llama import parallel
from llama.attention import attend
from llama.kv_cache import KVCache, LayerCache, StepMetadata
from llama.model_args import HIGH_FREQ_FACTOR, LOW_FREQ_FACTOR, OLD_CONTEXT_LEN, ModelArgs
from llama.parallel import ColumnParallelLinear, RowParallelLinear, side_by_side
from llama.stages import StageClock


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, computed in float32, scaled by ``weight`` in T."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.empty(dim))

    def prepare(self, for_good: bool = False) -> None:
        """Prepare the weight. Call it after the weight is loaded or moved."""
        self._weight = self.weight.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``(…, dim)``; return the same shape and dtype."""
        if x.dtype is torch.float32 and x.numel() == self.dim and x.is_cpu:  # one position: fewer operations
            flat = x.view(-1)
            return (x * (1 / math.sqrt(torch.dot(flat, flat).item() / self.dim + self.eps))).mul_(self._weight)
        if x.is_cuda:  # one kernel, computed in float32; the product with the weight follows in T, as in Meta's code
            return F.rms_norm(x, (self.dim,), None, self.eps) * self._weight
        # Written out, because torch's rms_norm takes more operations than these on the CPU.
        wide = in_float32(x)
        scale = wide.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()
        return in_dtype_of(x, wide * scale) * self._weight


def scale_freqs(freqs: torch.Tensor, factor: float) -> torch.Tensor:
    """Apply Llama 3.1's scaling to rotary frequencies ``(D/2,)``: divide long waves by ``factor``, keep short ones."""
    wavelengths = 2 * math.pi / freqs
    smooth = (OLD_CONTEXT_LEN / wavelengths - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR)
    blended = (1 - smooth) * freqs / factor + smooth * freqs
    scaled = torch.where(wavelengths > OLD_CONTEXT_LEN / LOW_FREQ_FACTOR, freqs / factor, blended)
    return torch.where(wavelengths < OLD_CONTEXT_LEN / HIGH_FREQ_FACTOR, freqs, scaled)


def precompute_freqs_cis(
    dim: int, end: int, theta: float = 10000.0, use_scaled: bool = False, factor: float = 8.0
) -> torch.Tensor:
    """Return the rotary table: complex64 ``(end, dim/2)`` with ``exp(i · p · frequency)`` for position p.

    Args:
        dim: head_dim.
        end: number of positions.
        theta: base of the frequencies.
        use_scaled: apply Llama 3.1's scaling.
        factor: factor of that scaling.
    """
    freqs = 1.0 / (theta ** (torch.arange(0, dim, 2)[: dim // 2].float() / dim))
    if use_scaled:
        freqs = scale_freqs(freqs, factor)
    angles = torch.outer(torch.arange(end, dtype=torch.float32), freqs)
    return torch.polar(torch.ones_like(angles), angles)


def apply_rotary_emb_(x: torch.Tensor, freqs_cis: torch.Tensor) -> None:
    """Rotate adjacent pairs of ``x`` ``(B, T, heads, D)`` by ``freqs_cis`` ``(1 or B, T, 1, D/2)`` in place.

    The computation is in float32. ``x`` may be a slice of the heads of a larger tensor.
    """
    pairs = (*x.shape[:-1], x.shape[-1] // 2, 2)
    if x.dtype is torch.float32:
        torch.view_as_complex(x.view(pairs)).mul_(freqs_cis)
    else:
        turned = torch.view_as_complex(x.float().view(pairs)).mul_(freqs_cis)
        x.copy_(torch.view_as_real(turned).flatten(-2))


def in_float32(x: torch.Tensor) -> torch.Tensor:
    """Return ``x.float()`` without a call into torch if it is float32: decoding needs hundreds of these per token."""
    return x if x.dtype is torch.float32 else x.float()


def in_dtype_of(like: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return ``x.type_as(like)`` without a call into torch if the dtypes are equal."""
    return x if x.dtype is like.dtype else x.to(like.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions over a cache. This rank holds H = n_heads / ranks query heads."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        ranks = parallel.world_size()
        # With more ranks than key/value heads, every rank that needs a head stores a copy.
        stored_kv_heads = max(args.kv_heads, ranks)
        self.head_dim = args.head_dim
        self.n_local_heads = args.n_heads // ranks
        self.n_local_kv_heads = stored_kv_heads // ranks
        self.wq = ColumnParallelLinear(args.dim, args.n_heads * args.head_dim)
        self.wk = ColumnParallelLinear(args.dim, stored_kv_heads * args.head_dim)
        self.wv = ColumnParallelLinear(args.dim, stored_kv_heads * args.head_dim)
        self.wo = RowParallelLinear(args.n_heads * args.head_dim, args.dim)
        self._reduce = ranks > 1

    def prepare(self, for_good: bool = False) -> None:
        """Prepare the matrices. Call it after the weights are loaded or moved."""
        self._wq_wk_wv = side_by_side(self.wq, self.wk, self.wv, for_good=for_good)
        self._wo = side_by_side(self.wo, for_good=for_good)

    def forward(self, x: torch.Tensor, step: StepMetadata, cache: LayerCache) -> torch.Tensor:
        """Attend for ``(B*T, dim)``; return the same shape. Write the new positions' keys and values to the cache."""
        b, t = len(step.start_pos), step.seqlen
        heads, kv_heads, d = self.n_local_heads, self.n_local_kv_heads, self.head_dim

        xq_xk_xv = self._wq_wk_wv(x).view(b, t, heads + 2 * kv_heads, d)
        apply_rotary_emb_(xq_xk_xv[:, :, : heads + kv_heads], step.freqs_cis)
        cache.write(xq_xk_xv[:, :, heads:].view(b, t, 2, kv_heads, d), step)
        output = self._wo(attend(xq_xk_xv[:, :, :heads], cache, step))
        return parallel.reduce(output) if self._reduce else output


class FeedForward(nn.Module):
    """SwiGLU: ``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.w1 = ColumnParallelLinear(args.dim, args.hidden_dim)
        self.w2 = RowParallelLinear(args.hidden_dim, args.dim)
        self.w3 = ColumnParallelLinear(args.dim, args.hidden_dim)
        self._reduce = parallel.world_size() > 1

    def prepare(self, for_good: bool = False) -> None:
        """Prepare the matrices. Call it after the weights are loaded or moved."""
        self._w1_w3 = side_by_side(self.w1, self.w3, for_good=for_good)
        self._w2 = side_by_side(self.w2, for_good=for_good)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute ``(B*T, dim)`` to the same shape."""
        gate, up = self._w1_w3(x).chunk(2, dim=-1)
        output = self._w2(F.silu(gate).mul_(up))
        return parallel.reduce(output) if self._reduce else output


class TransformerBlock(nn.Module):
    """One layer: attention and feed-forward, each after a norm, each added to the residual stream."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args.dim, eps=args.norm_eps)
        self.ffn_norm = RMSNorm(args.dim, eps=args.norm_eps)
        self._parts = (self.attention_norm, self.attention, self.ffn_norm, self.feed_forward)

    def forward(self, x: torch.Tensor, step: StepMetadata, cache: LayerCache) -> torch.Tensor:
        """Compute ``(B*T, dim)`` to the same shape."""
        attention_norm, attention, ffn_norm, feed_forward = self._parts
        h = x + attention.forward(attention_norm.forward(x), step, cache)
        return h + feed_forward.forward(ffn_norm.forward(h))


class TransformerLayers(nn.Module):
    """Consecutive layers, keyed by their number in the whole model; base class of both halves."""

    def __init__(self, args: ModelArgs, layer_ids: Iterable[int]) -> None:
        super().__init__()
        self.args = args
        self.layers = nn.ModuleDict({str(i): TransformerBlock(args) for i in layer_ids})
        # Not a buffer, so that it stays complex64 when the module is cast to another dtype.
        self.freqs_cis = torch.empty(0, args.head_dim // 2, dtype=torch.complex64)
        self._freqs_cis_lock = threading.Lock()
        self._prepared_at: int | None = None

    def prepare(self, for_good: bool = False) -> None:
        """Prepare the matrices. Call it after all weights are loaded or moved.

        A forward pass calls it if that was not done, or if all weights were replaced or moved since. It checks the
        address of one weight only; the old memory is still in use then, so the new address differs. ``for_good`` is
        faster, but a forward pass never chooses it: the matrices' weights become unreadable. They can then be replaced,
        all at once, but neither moved nor saved.
        """
        for part in self.modules():
            if isinstance(part, RMSNorm | Attention | FeedForward):
                part.prepare(for_good)
        self._prepared_at = self.first_weight.data_ptr()

    @property
    def first_weight(self) -> torch.Tensor:
        """Weight of the first layer, for its dtype and device."""
        first = next(iter(self.layers.values()))
        assert isinstance(first, TransformerBlock)
        return first.attention_norm.weight

    def new_cache(self, batch_size: int, max_seq_len: int) -> KVCache:
        """Return a cache for these layers, in the weights' dtype and on their device."""
        weight = self.first_weight
        with self._freqs_cis_lock:  # otherwise the shorter of two concurrent tables might remain
            if len(self.freqs_cis) < max_seq_len or self.freqs_cis.device != weight.device:
                a = self.args
                table = precompute_freqs_cis(
                    a.head_dim, max_seq_len, a.rope_theta, a.use_scaled_rope, a.rope_scaling_factor
                )
                self.freqs_cis = table.to(weight.device)
        return KVCache.allocate(
            len(self.layers),
            self.args,
            batch_size=batch_size,
            max_seq_len=max_seq_len,
            dtype=weight.dtype,
            device=weight.device,
        )

    def run_layers(
        self,
        h: torch.Tensor,
        start_pos: Sequence[int],
        cache: KVCache,
        clock: StageClock | None = None,
        slots: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Take hidden states ``(B, T, dim)`` through the layers; sequence b's first position is ``start_pos[b]``.

        ``clock`` is stopped after each layer. ``slots`` are the ascending cache slots of the sequences; None means all.
        """
        if self._prepared_at != self.first_weight.data_ptr():
            self.prepare()
        b, t, dim = h.shape
        step = StepMetadata.of(start_pos, t, self.freqs_cis, cache, slots)
        return self.run_step(h.reshape(b * t, dim), step, cache, clock).view(b, t, dim)

    def run_step(
        self, h: torch.Tensor, step: StepMetadata, cache: KVCache, clock: StageClock | None = None
    ) -> torch.Tensor:
        """Take hidden states ``(B*T, dim)`` through the prepared layers, at the positions of ``step``."""
        for layer, layer_cache in zip(self.layers.values(), cache.by_layer(step), strict=True):
            h = layer.forward(h, step, layer_cache)
            if clock is not None:
                clock.stop()
        return h
