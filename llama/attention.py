"""Two implementations of attention: a dot product over padded sequences, and flash attention on a CUDA GPU.

In both, groups of query heads read the keys and values, instead of repeating them for each head. Both give Meta's
numbers. Shapes follow :mod:`llama.kv_cache`; this rank has H query heads, ``rep`` of them per key head.
"""

from __future__ import annotations

import math

import torch

from llama.kv_cache import FlashMetadata, LayerCache, StepMetadata


def attend(xq: torch.Tensor, cache: LayerCache, step: StepMetadata) -> torch.Tensor:
    """Attend from queries ``(B, T, H, D)`` to the cached positions that each may see; return ``(B*T, H*D)``."""
    if step.flash is not None:
        b, _, heads, d = xq.shape
        kv_heads = step.flash.used.shape[0] // b
        grouped = xq.reshape(b * kv_heads, heads // kv_heads, d)
        return flash_attention(grouped, cache, step.flash).view(b, heads * d)
    if step.idle_slots:
        return _attend_among_idle_slots(xq, cache, step)
    return dot_product_attention(xq, cache, step)


def dot_product_attention(xq: torch.Tensor, cache: LayerCache, step: StepMetadata) -> torch.Tensor:
    """Attend from queries ``(B, T, H, D)`` as Meta's reference does; B equals the number of the cache's slots."""
    b, t, heads, d = xq.shape
    kv_heads = cache.keys.shape[0] // b
    rep = heads // kv_heads
    # The query heads that share a key head are rows of one product: (B*K, rep*T, D).
    if t == 1:
        xq = xq.reshape(b * kv_heads, rep, d)
    else:
        xq = xq.view(b, t, kv_heads, rep, d).permute(0, 2, 3, 1, 4).reshape(b * kv_heads, rep * t, d)
    scores = torch.bmm(xq, cache.keys.transpose(1, 2)).div_(math.sqrt(d))  # (B*K, rep*T, end)
    if step.mask is not None:
        scores.view(b, kv_heads, rep, t, step.end).add_(step.mask)
    scores = torch.softmax(scores, dim=-1, dtype=torch.float32)
    output = torch.bmm(scores if xq.dtype is torch.float32 else scores.to(xq.dtype), cache.values)  # (B*K, rep*T, D)
    if t == 1:
        return output.view(b, heads * d)
    return output.view(b, kv_heads, rep, t, d).permute(0, 3, 1, 2, 4).reshape(b * t, heads * d)


def _attend_among_idle_slots(xq: torch.Tensor, cache: LayerCache, step: StepMetadata) -> torch.Tensor:
    """Attend with a query for every slot (zeros for idle slots), and return the answers of the active slots."""
    assert step.write_at is not None and step.mask is not None
    b, t, heads, d = xq.shape
    slots, n_slots = step.write_at[0][:, 0], step.mask.shape[0]
    every = xq.new_zeros(n_slots, t, heads, d).index_copy_(0, slots, xq)
    output = dot_product_attention(every, cache, step).view(n_slots, t, heads * d)
    return output.index_select(0, slots).view(b * t, heads * d)


def flash_attention(xq: torch.Tensor, cache: LayerCache, flash: FlashMetadata) -> torch.Tensor:
    """Attend from one new position of each sequence, ``(B*K, rep, D)``; return the same shape.

    It works for float16 or bfloat16 on CUDA. It calls torch's flash attention for sequences of different lengths,
    directly on the cache. Each key head of each slot counts as one sequence, so none is copied and none is read beyond
    its length.
    """
    keys, values = (each.view(-1, 1, each.shape[-1]) for each in (cache.keys, cache.values))
    # Not torch.nn.attention.varlen: it adds a kernel to this call, and in torch 2.11 it takes no lengths.
    output: torch.Tensor = torch.ops.aten._flash_attention_forward(
        xq,
        keys,
        values,
        flash.groups,
        flash.begins,
        1,
        cache.keys.shape[1],
        0.0,
        False,
        False,
        scale=xq.shape[-1] ** -0.5,
        seqused_k=flash.used,
    )[0]
    return output
