"""Loads the model on one rank, and computes what a device would send for prompt prefixes.

The programs pass in the two halves' models: this package knows only the layers that both have.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from llama import parallel
from llama.checkpoint.halves import Half, load_weights
from llama.cloud.cuda_graphs import DecodeGraphs, Decoder
from llama.cloud.model_runner import ModelRunner
from llama.device import is_out_of_memory
from llama.dtypes import DTYPES
from llama.errors import UsageError
from llama.model import TransformerLayers
from llama.model_args import ModelArgs
from llama.wire import Welcome

MAX_ROWS = 256  # hidden states per request


@dataclass(frozen=True)
class Models:
    """The two halves of the model, as their programs build them.

    Attributes:
        new_cloud: the cloud's layers without weights, from the hyperparameters and the first layer's number.
        load_edge: the device's layers, loaded and ready, in a dtype and on a device.
    """

    new_cloud: Callable[[ModelArgs, int], TransformerLayers]
    load_edge: Callable[[Half, torch.dtype, torch.device], TransformerLayers]


@dataclass(frozen=True)
class Process:
    """This process among the ranks, as torchrun numbers them; alone without torchrun."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this machine
    local_ranks: int = 1

    @classmethod
    def from_environment(cls) -> Process:
        """What torchrun has set."""
        rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        return cls(rank, world_size, int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def load(
    models: Models,
    half: Half,
    welcome: Welcome,
    process: Process,
    device: torch.device,
    *,
    cuda_graphs: bool,
    slots: int = 0,
) -> ModelRunner:
    """Load this rank's share of the cloud half, and allocate as many slots of the KV cache as rank 0 says.

    Raises:
        UsageError: that does not fit on the device.
    """
    # Plans and hidden states travel through gloo also where the layers reduce through NCCL.
    parallel.start(process.rank, process.world_size, "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    dtype, slots = DTYPES[welcome.dtype], parallel.of_rank_0(slots)
    rank, world_size = process.rank, process.world_size
    try:
        with parallel.unfilled_weights(dtype):
            model = models.new_cloud(half.args, half.split_layer)
        load_weights(model, half, rank=rank, world_size=world_size, dtype=dtype, device=device, keep_mapped=False)
        model.prepare(for_good=True)
        cache = model.new_cache(slots, welcome.max_seq_len)
        decoder = cast(Decoder, model)  # as the cloud's layers are, and the device's not
        with_graphs = cuda_graphs and world_size == 1 and DecodeGraphs.suits(decoder)
        return ModelRunner(model, cache, half.args.dim, DecodeGraphs(decoder, cache) if with_graphs else None)
    except RuntimeError as err:
        if not is_out_of_memory(err):
            raise
        raise UsageError(
            f"the model and the caches of {slots} sessions of {welcome.max_seq_len} tokens do not fit on {device}; "
            f"lower --kv_cache_gb or --max_batch_size, or use more ranks"
        ) from None


def device_hidden(
    models: Models, half: Half, prefixes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> dict[tuple[int, ...], torch.Tensor]:
    """Compute what a device would send for prompts that begin so: ``(len(ids), dim)`` each, on the CPU."""
    hidden = dict[tuple[int, ...], torch.Tensor]()
    with parallel.alone():
        edge = models.load_edge(half, dtype, device)
        for ids in prefixes:
            cache, starts = edge.new_cache(1, len(ids)), range(0, len(ids), MAX_ROWS)
            parts = [edge(torch.tensor([ids[start : start + MAX_ROWS]]), [start], cache)[0] for start in starts]
            hidden[ids] = torch.cat(parts).cpu()
    return hidden
