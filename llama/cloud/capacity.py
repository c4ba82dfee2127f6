"""Memory of the cloud: slots of the KV cache, the prefix cache, and the ceiling of the process.

Knows: sizes. Does not know: weights, sessions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from llama.checkpoint.halves import Half
from llama.cloud.event_log import EventLog
from llama.cloud.prefix_cache import SHARE, choose_prefixes
from llama.errors import UsageError
from llama.kv_cache import KVCache
from llama.memory_ceiling import CLOUD_ALLOWANCE, MemoryCeiling, own_memory

USUAL_SESSIONS = 256
USUAL_CONTEXT = 2048  # tokens


@dataclass(frozen=True)
class Capacity:
    """The use of the memory of ``--kv_cache_gb``.

    Attributes:
        slots: sessions that the KV cache holds at a time.
        prefixes: ids of the prompt prefixes that the prefix cache keeps.
    """

    slots: int
    prefixes: list[tuple[int, ...]]


def context_of(max_seq_len: int | None, half: Half) -> int:
    """Return the most tokens of prompt and reply together: the flag's, or the usual number.

    Raises:
        UsageError: it is not between 2 and the model's context.
    """
    if max_seq_len is None:
        return min(USUAL_CONTEXT, half.context_length)
    if not 2 <= max_seq_len <= half.context_length:
        raise UsageError(
            f"--max_seq_len must be between 2 and this model's context of {half.context_length} (got {max_seq_len})"
        )
    return max_seq_len


def bytes_per_position(half: Half, dtype: torch.dtype, world_size: int) -> int:
    """Return the bytes that one token of one session takes in the KV cache, on all ranks together."""
    return KVCache.bytes_per_position(half.args.n_layers - half.split_layer, half.args, dtype, world_size)


def plan(
    kv_cache_gb: float,
    max_batch_size: int | None,
    prefixes: Mapping[str, Sequence[tuple[int, ...]]],
    *,
    position_bytes: int,
    max_seq_len: int,
    events: EventLog,
) -> Capacity:
    """Divide ``kv_cache_gb`` GiB between the prefix cache and the slots.

    Args:
        kv_cache_gb: GiB, on all ranks together.
        max_batch_size: most slots; None is ``USUAL_SESSIONS``.
        prefixes: ids that prompts begin with, by the party whose sheets they come from.
        position_bytes: bytes of one token in the KV cache.
        max_seq_len: tokens of one slot.
        events: gets a warning if not all prefixes fit.

    Raises:
        UsageError: not even one slot fits.
    """
    positions = int(kv_cache_gb * 2**30) // position_bytes
    if positions < max_seq_len:
        raise UsageError(
            f"--kv_cache_gb is too small: one session of {max_seq_len} tokens takes "
            f"{position_bytes * max_seq_len / 2**30:.2f} GiB (got {kv_cache_gb}); raise it, or lower --max_seq_len"
        )
    fit = choose_prefixes(prefixes, max_seq_len, min(int(SHARE * positions), positions - max_seq_len))
    all_of_them = len({ids for of_a_party in prefixes.values() for ids in of_a_party})
    if len(fit) < all_of_them:
        warning = (
            f"--kv_cache_gb {kv_cache_gb} has room for {len(fit)} of {all_of_them} prompt prefixes; each session "
            f"computes the others again"
        )
        events.warning("cache_small", message=warning)
    slots = (positions - sum(map(len, fit))) // max_seq_len
    return Capacity(min(slots, USUAL_SESSIONS if max_batch_size is None else max_batch_size), fit)


def memory_ceiling(max_memory_gb: float | None) -> MemoryCeiling | None:
    """Return the memory ceiling of this process; None where the system does not report its memory.

    It must be called once everything is loaded: the default allows growth beyond the memory in use then.

    Raises:
        UsageError: the process already uses more than ``max_memory_gb`` GiB.
    """
    has = own_memory()
    if has is None:
        return None
    most = has + max(CLOUD_ALLOWANCE, has // 4) if max_memory_gb is None else max_memory_gb * 2**30
    if not most > has:  # nor NaN
        raise UsageError(
            f"--max_memory_gb is too small: the idle cloud uses {has / 2**30:.2f} GiB (got {max_memory_gb}); raise it, "
            f"or lower --kv_cache_gb"
        )
    return MemoryCeiling(most, time.monotonic, lambda: own_memory() or 0)
