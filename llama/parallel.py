"""fairscale's parallel layers and the process group behind them; the only module that knows fairscale.

Knows: how many model-parallel ranks there are and how a weight is divided among them.
Knows nothing about: Llama, checkpoints on disk, sockets.

The layers hold this rank's share of the weights, under the names and in the shapes that checkpoints have. The linear
ones are not called: the model multiplies by their weights itself, since fairscale's forward passes through autograd
functions that take as long as a small product. :func:`reduce` and :func:`gather` are what its layers do after theirs.
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


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Layers that are built in here are whole, however many ranks there are: for what one rank computes by itself."""
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
    """Number of model-parallel ranks; 1 before :func:`start`."""
    if _alone:
        return 1
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
    """W ``(out, in)`` of ``y = x Wᵀ``, divided along ``out``: each rank computes its share of y."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False, gather_output=False, init_method=lambda w: w)


class RowParallelLinear(fs_layers.RowParallelLinear):
    """W ``(out, in)`` of ``y = x Wᵀ``, divided along ``in``: x arrives divided, y is the sum over all ranks."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False, input_is_parallel=True, init_method=lambda w: w)


@torch.inference_mode(False)  # or the weights could be used in inference mode only
@torch.no_grad()
def side_by_side(
    *layers: ColumnParallelLinear | RowParallelLinear, for_good: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Rows ``(T, in)`` times the weights of layers that are all given them: ``(T, sum of out)``.

    One large product reads memory faster than several small ones. It takes no room of its own: each layer's weight
    becomes a view of the one matrix. ``for_good`` says that the weights will neither be read nor changed any more:
    then the only copy may be in the order in which the library multiplies fastest, and the weights read as NaN.
    """
    matrix = layers[0].weight.detach()
    if len(layers) > 1:
        outs = [len(layer.weight) for layer in layers]
        matrix = matrix.new_empty(sum(outs), matrix.shape[1])
        for layer, place in zip(layers, matrix.split(outs), strict=True):
            place.copy_(layer.weight.detach())
            layer.weight.data = place  # frees the old one: at no time are there two of more than one layer
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
    """Whether oneDNN multiplies faster than BLAS.

    On x86 it does for some rows at once, where MKL is at its worst: half of MKL's time for 8 on two AVX2 cores, and as
    much as MKL's for one.
    """
    on_x86 = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return on_x86 and matrix.device.type == "cpu" and matrix.dtype is torch.float32


def meet() -> None:
    """Wait until all ranks have come here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # of the CPU: a GPU's barrier would be NCCL's


def of_rank_0(number: int) -> int:
    """Rank 0's number, on every rank."""
    if world_size() == 1:
        return number
    number_of_rank_0 = torch.tensor([number], dtype=torch.int64)
    dist.broadcast(number_of_rank_0, 0)
    return int(number_of_rank_0)


def reduce(x: torch.Tensor) -> torch.Tensor:
    """The sum of all ranks' ``x``, to follow a product with a row-parallel layer's matrix."""
    return x if world_size() == 1 else fs_mappings.reduce_from_model_parallel_region(x)


def gather(x: torch.Tensor) -> torch.Tensor:
    """All ranks' ``x`` one after the other along the last dimension."""
    return x if world_size() == 1 else fs_mappings.gather_from_model_parallel_region(x)


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
