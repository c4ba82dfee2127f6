"""fairscale's parallel layers and the process group behind them; the only module that knows fairscale.

Knows: the number of model-parallel ranks and the division of a weight among them.
Knows nothing about: Llama, checkpoints on disk, sockets.

The layers hold this rank's share of the weights, with the names and shapes of checkpoints. The model does not call the
linear layers but multiplies by their weights itself: fairscale's forward passes through autograd functions that take
as long as a small product. :func:`reduce` and :func:`gather` do the rest of what fairscale's layers do.
"""

from __future__ import annotations

import contextlib
import io
import math
import platform
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fairscale.nn.model_parallel import initialize as fs_initialize
from fairscale.nn.model_parallel import layers as fs_layers
from fairscale.nn.model_parallel import mappings as fs_mappings


def start(rank: int = 0, world_size: int = 1, backend: str = "gloo") -> None:
    """Join the model-parallel group of ``world_size`` ranks. A second call with the same size has no effect.

    Args:
        rank: this process's number, ``0 … world_size-1``.
        world_size: number of ranks; with more, ``MASTER_ADDR`` and ``MASTER_PORT`` must be set (torchrun does).
        backend: ``gloo`` or ``nccl``; unused for one rank.

    One rank gets torch's ``fake`` group: a gloo group opens a listening port even with one rank, and neither the
    device nor a one-rank cloud needs that port.
    """
    if fs_initialize.model_parallel_is_initialized():
        if fs_initialize.get_model_parallel_world_size() != world_size:
            raise RuntimeError("this process already has a model-parallel group of another size; call stop() first")
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
    """Leave the group, after a barrier: a gloo group that is destroyed on one side only can abort the other side."""
    if not dist.is_initialized():
        return
    if world_size() > 1:
        dist.barrier()
    fs_initialize.destroy_model_parallel()
    dist.destroy_process_group()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Build whole layers in this context, for any number of ranks. Used for computations of a single rank."""
    global _alone
    names = ("get_model_parallel_world_size", "get_model_parallel_rank")
    patched, _alone = {name: getattr(fs_layers, name) for name in names}, True
    fs_layers.get_model_parallel_world_size, fs_layers.get_model_parallel_rank = lambda: 1, lambda: 0
    try:
        yield
    finally:
        _alone = False
        for name, original in patched.items():
            setattr(fs_layers, name, original)


_alone = False


def world_size() -> int:
    """Return the number of model-parallel ranks; 1 before :func:`start`."""
    if _alone:
        return 1
    return int(fs_initialize.get_model_parallel_world_size()) if fs_initialize.model_parallel_is_initialized() else 1


@contextlib.contextmanager
def unfilled_weights(dtype: torch.dtype) -> Iterator[None]:
    """Build parallel layers of ``dtype`` without touching their weights' memory.

    fairscale initialises every weight and, with several ranks, allocates the *whole* weight on each rank for that.
    Weights built in this context are address space only; replace them with ``load_state_dict(assign=True)``.
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
    """W ``(out, in)`` of ``y = x Wᵀ``, divided along ``out``. Each rank computes its share of y."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False, gather_output=False, init_method=lambda w: w)


class RowParallelLinear(fs_layers.RowParallelLinear):
    """W ``(out, in)`` of ``y = x Wᵀ``, divided along ``in``. x arrives divided; y is the sum over all ranks."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False, input_is_parallel=True, init_method=lambda w: w)


@torch.inference_mode(False)  # otherwise the weights could be used in inference mode only
@torch.no_grad()
def side_by_side(
    *layers: ColumnParallelLinear | RowParallelLinear, for_good: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Join layers with the same input; return a function that multiplies rows ``(T, in)`` to ``(T, sum of out)``.

    One large product reads memory faster than several small ones. It takes no additional memory: each layer's weight
    becomes a view of the joint matrix. ``for_good`` promises that the weights will be neither read nor changed. The
    only copy may then be in the library's fastest order, and the weights read as NaN.
    """
    matrix = layers[0].weight.detach()
    if len(layers) > 1:
        outs = [len(layer.weight) for layer in layers]
        matrix = matrix.new_empty(sum(outs), matrix.shape[1])
        for layer, place in zip(layers, matrix.split(outs), strict=True):
            place.copy_(layer.weight.detach())
            layer.weight.data = place  # frees the old weight, so at most one layer has two copies at a time
    if not (for_good and _packs(matrix)):
        return partial(torch.mm, mat2=matrix.t())
    for layer in layers:
        layer.weight.data = matrix.new_full((), math.nan).expand(layer.weight.shape)
    blocks = torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous())

    def multiplied(rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, blocks, None, "none", [], "")
        return result

    return multiplied


def _packs(matrix: torch.Tensor) -> bool:
    """Return whether oneDNN multiplies faster than BLAS.

    On x86 it does for a few rows at once, where MKL is slowest: half of MKL's time for 8 rows on two AVX2 cores, and
    the same time for one row.
    """
    on_x86 = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return on_x86 and matrix.device.type == "cpu" and matrix.dtype is torch.float32


def meet() -> None:
    """Wait until all ranks have called this."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # on the CPU: a GPU tensor would use NCCL


def of_rank_0(number: int) -> int:
    """Return rank 0's number on every rank."""
    if world_size() == 1:
        return number
    number_of_rank_0 = torch.tensor([number], dtype=torch.int64)
    dist.broadcast(number_of_rank_0, 0)
    return int(number_of_rank_0)


def reduce(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of all ranks' ``x``. Call it after a product with a row-parallel layer's matrix."""
    return x if world_size() == 1 else fs_mappings.reduce_from_model_parallel_region(x)


def gather(x: torch.Tensor) -> torch.Tensor:
    """Concatenate all ranks' ``x`` along the last dimension."""
    return x if world_size() == 1 else fs_mappings.gather_from_model_parallel_region(x)


class VocabParallelEmbedding(fs_layers.VocabParallelEmbedding):
    """Lookup of token ids in W ``(vocab, dim)``, which is divided along ``vocab``."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim, init_method=lambda w: w)
        self.alone = world_size() == 1

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up int64 ids ``(…)``; return ``(…, dim)``."""
        if self.alone:
            return F.embedding(ids, self.weight)
        output: torch.Tensor = super().forward(ids)
        return output
