"""Loading of the model on one rank, and the hidden states that a device would send for prompt prefixes.

The programs pass in the models of both halves. This package uses only the layers that both have.

Knows: checkpoints, ranks, devices. Does not know: sessions, sockets, people's words.
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

MAX_ROWS = 256  # maximum hidden states per request


@dataclass(frozen=True)
class Models:
    """Constructors of the two halves of the model.

    Attributes:
        new_cloud: builds the cloud's layers without weights, from the hyperparameters and the first layer's number.
        load_edge: loads the device's layers in a dtype, on a device, ready to use.
    """

    new_cloud: Callable[[ModelArgs, int], TransformerLayers]
    load_edge: Callable[[Half, torch.dtype, torch.device], TransformerLayers]


@dataclass(frozen=True)
class Process:
    """Number of this process among the ranks, as torchrun counts them. Without torchrun there is one rank."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this machine
    local_ranks: int = 1

    @classmethod
    def from_environment(cls) -> Process:
        """Read the numbers from torchrun's environment variables."""
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
    """Load this rank's share of the cloud half, and allocate the KV cache with rank 0's number of slots.

    Raises:
        UsageError: the model and the cache do not fit on the device.
    """
    # Commands and hidden states use gloo also if the layers reduce through NCCL.
    parallel.start(process.rank, process.world_size, "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    dtype, slots = DTYPES[welcome.dtype], parallel.of_rank_0(slots)
    rank, world_size = process.rank, process.world_size
    try:
        with parallel.unfilled_weights(dtype):
            model = models.new_cloud(half.args, half.split_layer)
        load_weights(model, half, rank=rank, world_size=world_size, dtype=dtype, device=device, keep_mapped=False)
        model.prepare(for_good=True)
        cache = model.new_cache(slots, welcome.max_seq_len)
        decoder = cast(Decoder, model)  # the cloud's layers are a Decoder; the device's layers are not
        with_graphs = cuda_graphs and world_size == 1 and DecodeGraphs.suits(decoder)
        return ModelRunner(model, cache, half.args.dim, DecodeGraphs(decoder, cache) if with_graphs else None)
    except RuntimeError as err:
        if not is_out_of_memory(err):
            raise
        raise UsageError(
            f"the model and the KV cache for {slots} sessions of {welcome.max_seq_len} tokens do not fit on {device}; "
            f"lower --kv_cache_gb or --max_batch_size, or use more ranks"
        ) from None


def device_hidden(
    models: Models, half: Half, prefixes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> dict[tuple[int, ...], torch.Tensor]:
    """Compute the hidden states that a device would send for each prefix: ``(len(ids), dim)``, on the CPU."""
    hidden = dict[tuple[int, ...], torch.Tensor]()
    with parallel.alone():
        edge = models.load_edge(half, dtype, device)
        for ids in prefixes:
            cache, starts = edge.new_cache(1, len(ids)), range(0, len(ids), MAX_ROWS)
            parts = [edge(torch.tensor([ids[start : start + MAX_ROWS]]), [start], cache)[0] for start in starts]
            hidden[ids] = torch.cat(parts).cpu()
    return hidden
