"""fairscale's parallel layers and the process group behind them; the only module that knows fairscale.

Knows: how many model-parallel ranks there are and how a weight is divided among them.
Knows nothing about: Llama, checkpoints on disk, sockets.

With one rank the layers are the ordinary ones (`F.linear`, `F.embedding`): fairscale's forward would pass through
four autograd functions to do nothing. With several, fairscale's own forward runs, all-reduces included.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fairscale.nn.model_parallel import initialize as fs_initialize
from fairscale.nn.model_parallel import layers as fs_layers


def start(rank: int = 0, world_size: int = 1, backend: str = "gloo") -> None:
    """Join the model-parallel group of ``world_size`` ranks. Calling it again with the same size does nothing.

    Args:
        rank: this process's number, ``0 … world_size-1``.
        world_size: number of ranks; with more, ``MASTER_ADDR`` and ``MASTER_PORT`` must be set (torchrun does).
        backend: ``gloo`` or ``nccl``; unused for one rank.

    One rank gets torch's ``fake`` group, since a gloo group opens a listening port even when it is alone, and neither
    the device nor a one-rank cloud has any business listening there.
    """
    if fs_initialize.model_parallel_is_initialized():
        if fs_initialize.get_model_parallel_world_size() != world_size:
            raise RuntimeError("the model-parallel group of this process already has another size")
        return
    if not dist.is_initialized():
        if world_size == 1:
            from torch.testing._internal.distributed.fake_pg import FakeStore

            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend, rank=rank, world_size=world_size)
    with contextlib.redirect_stdout(io.StringIO()):  # fairscale prints three lines about what it initialises
        fs_initialize.initialize_model_parallel(world_size)


def stop() -> None:
    """Leave the group. Ranks meet at a barrier first: a gloo group destroyed on one side only can abort the other."""
    if not dist.is_initialized():
        return
    if world_size() > 1:
        dist.barrier()
    fs_initialize.destroy_model_parallel()
    dist.destroy_process_group()


def world_size() -> int:
    """Number of model-parallel ranks; 1 before :func:`start`."""
    return int(fs_initialize.get_model_parallel_world_size()) if fs_initialize.model_parallel_is_initialized() else 1


@contextlib.contextmanager
def unfilled_weights(dtype: torch.dtype) -> Iterator[None]:
    """Build parallel layers of ``dtype`` without touching their weights' memory.

    fairscale fills every weight as it is made and, with several ranks, allocates the *whole* weight on each of them
    for it. Weights made in here are address space only, to be replaced by ``load_state_dict(assign=True)``.
    """
    initialise, default = fs_layers._initialize_affine_weight, torch.get_default_dtype()
    fs_layers._initialize_affine_weight = lambda *args, **kwargs: None
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        fs_layers._initialize_affine_weight = initialise
        torch.set_default_dtype(default)


class ColumnParallelLinear(fs_layers.ColumnParallelLinear):
    """``y = x Wᵀ``, W ``(out, in)`` divided along ``out``; ``gather_output`` puts the pieces together on every rank."""

    def __init__(self, in_features: int, out_features: int, *, gather_output: bool) -> None:
        super().__init__(in_features, out_features, bias=False, gather_output=gather_output, init_method=lambda w: w)
        self.alone = world_size() == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(…, in)`` to ``(…, out)``, or to this rank's share of ``out`` without ``gather_output``."""
        if self.alone:
            return F.linear(x, self.weight)
        output: torch.Tensor = super().forward(x)
        return output


class RowParallelLinear(fs_layers.RowParallelLinear):
    """``y = x Wᵀ``, W ``(out, in)`` divided along ``in``; x arrives divided, y is the all-reduced sum."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False, input_is_parallel=True, init_method=lambda w: w)
        self.alone = world_size() == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """This rank's ``(…, in / ranks)`` to the whole ``(…, out)``."""
        if self.alone:
            return F.linear(x, self.weight)
        output: torch.Tensor = super().forward(x)
        return output


class VocabParallelEmbedding(fs_layers.VocabParallelEmbedding):
    """Token id to row of W ``(vocab, dim)``, W divided along ``vocab``."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim, init_method=lambda w: w)
        self.alone = world_size() == 1

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 ``(…)`` to ``(…, dim)``."""
        if self.alone:
            return F.embedding(ids, self.weight)
        output: torch.Tensor = super().forward(ids)
        return output
