"""Meta's Llama blocks: what both halves of the model are built from.

Names, shapes and the order of operations are those of Meta's PyTorch reference (github.com/meta-llama/llama3,
``llama/model.py``, and github.com/meta-llama/llama-models for the scaled rotary embedding), so that released
checkpoints load unchanged and the same weights give the same numbers. What differs, and why:

* caches are passed into ``forward``, with a start position per sequence, so that sequences of different lengths can
  share a batch (:mod:`llama.kv_cache`);
* keys and values are read by groups of query heads instead of being repeated for each head
  (:mod:`llama.attention`);
* weights of the same input (wq, wk, wv; w1, w3) lie side by side and are multiplied at once;
* layers are numbered as in the whole model wherever the cut lies.

What decoding costs beside reading the weights is calls: some thousand a token. So the layers pass on ``(B*T, dim)``,
which is multiplied without being viewed as something else first; what they multiply by is made ready once, by
``prepare``; and they call each other's ``forward``, which spares torch's search for hooks.

Shapes below use B sequences, T new positions, S cached positions, H query heads and K key/value heads on this
rank, D head_dim. "T" as a dtype is the compute dtype, that of the weights.
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
        if x.dtype is torch.float32 and x.numel() == self.dim and x.is_cpu:  # one position: the shorter way
            flat = x.view(-1)
            return (x * (1 / math.sqrt(torch.dot(flat, flat).item() / self.dim + self.eps))).mul_(self._weight)
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
    """The rotary table: complex64 ``(end, dim/2)``, position p holding ``exp(i · p · frequency)``.

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


class Attention(nn.Module):
    """Grouped-query attention with rotary positions over a cache; this rank holds H = n_heads / ranks query heads."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        ranks = parallel.world_size()
        # With more ranks than key/value heads, each head is stored once per rank that needs it.
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
        """To be called when the weights have got their places."""
        self._wq_wk_wv = side_by_side(self.wq, self.wk, self.wv, for_good=for_good)
        self._wo = side_by_side(self.wo, for_good=for_good)

    def forward(self, x: torch.Tensor, step: StepMetadata, cache: LayerCache) -> torch.Tensor:
        """``(B*T, dim)`` to the same shape; keys and values of the new positions are written to the cache."""
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

    def forward(self, x: torch.Tensor, step: StepMetadata, cache: LayerCache) -> torch.Tensor:
        """``(B*T, dim)`` to the same shape."""
        attention_norm, attention, ffn_norm, feed_forward = self._parts
        h = x + attention.forward(attention_norm.forward(x), step, cache)
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

        ``clock`` is stopped after each layer. ``slots``, ascending, are those of the cache that the sequences lie in;
        None is all.
        """
        if self._prepared_at != self.first_weight.data_ptr():
            self.prepare()
        b, t, dim = h.shape
        step = StepMetadata.of(start_pos, t, self.freqs_cis, cache, slots)
        return self.run_step(h.reshape(b * t, dim), step, cache, clock).view(b, t, dim)

    def run_step(
        self, h: torch.Tensor, step: StepMetadata, cache: KVCache, clock: StageClock | None = None
    ) -> torch.Tensor:
        """Take hidden states ``(B*T, dim)`` through the layers, which are prepared, where ``step`` says."""
        for layer, layer_cache in zip(self.layers.values(), cache.by_layer(step), strict=True):
            h = layer.forward(h, step, layer_cache)
            if clock is not None:
                clock.stop()
        return h
