"""What the layers multiply by is what was loaded, and one row is computed as several are."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from fairscale.nn.model_parallel import layers as fs_layers

from llama import parallel
from llama.model import RMSNorm, TransformerBlock
from llama.model_args import ModelArgs
from llama.parallel import ColumnParallelLinear, side_by_side
from model_cloud import CloudTransformer
from tests.support import ARGS

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def cloud_half(seed: int, dtype: torch.dtype = torch.float32, args: ModelArgs = ARGS) -> CloudTransformer:
    """The cloud's half of a random model."""
    parallel.start()
    with parallel.unfilled_weights(dtype):
        model = CloudTransformer(args, 1)
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model


def logits(model: CloudTransformer, rows: torch.Tensor) -> torch.Tensor:
    """At every position of ``rows`` ``(T, dim)``."""
    found: torch.Tensor = model(rows[None], [0], model.new_cache(1, len(rows)), len(rows))[0]
    return found


def some_rows(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, ARGS.dim, generator=torch.Generator().manual_seed(9)).to(dtype)


# --- Side by side ---------------------------------------------------------------------------------------------------


@DTYPES
def test_layers_side_by_side_give_what_fairscales_layers_give_one_by_one(dtype: torch.dtype) -> None:
    """For one row and for many; the oracle is fairscale's own forward."""
    parallel.start()
    with parallel.unfilled_weights(dtype):
        layers = [ColumnParallelLinear(64, out) for out in (96, 32, 32)]
    for layer in layers:
        layer.requires_grad_(False)
        layer.weight.normal_(generator=torch.Generator().manual_seed(layer.out_features))
    some = [some_rows(count, dtype) for count in (1, 2, 5, 33)]
    expected = [
        torch.cat([fs_layers.ColumnParallelLinear.forward(layer, rows) for layer in layers], dim=-1) for rows in some
    ]
    for for_good in (False, True):
        multiplied = side_by_side(*layers, for_good=for_good)
        for rows, products in zip(some, expected, strict=True):
            torch.testing.assert_close(
                multiplied(rows), products, rtol=1e-5 if dtype is torch.float32 else 1e-2, atol=1e-4
            )


@DTYPES
def test_weights_keep_their_names_shapes_and_values_and_take_no_more_memory(dtype: torch.dtype) -> None:
    """After they were laid side by side, the state dict is what it was, and those of one matrix share its memory."""
    model = cloud_half(1, dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.prepare()
    after = model.state_dict()
    assert list(after) == list(before)
    for name, weight in before.items():
        assert torch.equal(after[name], weight), name
    block = model.layers["1"]
    assert isinstance(block, TransformerBlock)
    attention, feed_forward = block.attention, block.feed_forward
    for together in ((attention.wq, attention.wk, attention.wv), (feed_forward.w1, feed_forward.w3)):
        storages = {layer.weight.untyped_storage().data_ptr() for layer in together}
        assert len(storages) == 1
        assert together[0].weight.untyped_storage().nbytes() == sum(layer.weight.nbytes for layer in together)


def test_weights_that_are_replaced_moved_or_written_to_are_those_that_are_used() -> None:
    """Each way in which torch changes a model's weights, after a first forward has laid the old ones side by side."""
    rows, model, other = some_rows(5), cloud_half(1), cloud_half(2)
    first, second = logits(model, rows), logits(other, rows)
    assert not torch.allclose(first, second)

    model.load_state_dict(other.state_dict())  # copied into the old ones' places
    assert torch.equal(logits(model, rows), second)
    for seed, expected in ((1, first), (2, second), (1, first)):
        model.load_state_dict({k: v.clone() for k, v in cloud_half(seed).state_dict().items()}, assign=True)
        assert torch.equal(logits(model, rows), expected)
    model.to(torch.bfloat16)
    assert torch.equal(logits(model, rows.bfloat16()), logits(cloud_half(1, torch.bfloat16), rows.bfloat16()))


def test_weights_that_are_prepared_for_good_give_the_same_logits_and_take_no_second_room() -> None:
    """Where the library has an order of its own, nothing is left of the first, and nobody reads it by mistake."""
    rows, model, other = some_rows(40), cloud_half(1), cloud_half(2)
    expected, second = logits(model, rows), logits(other, rows)
    model.prepare(for_good=True)
    torch.testing.assert_close(logits(model, rows), expected, rtol=1e-5, atol=1e-5)
    matrices = [weight for weight in model.state_dict().values() if weight.dim() == 2]
    if any(weight.isnan().all() for weight in matrices):
        assert all(weight.isnan().all() and weight.untyped_storage().nbytes() == 4 for weight in matrices)
    model.load_state_dict({k: v.clone() for k, v in cloud_half(2).state_dict().items()}, assign=True)
    assert torch.equal(logits(model, rows), second)


# --- One row --------------------------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_norm_is_torchs_rms_norm(count: int, dtype: torch.dtype) -> None:
    """One row takes a shorter way; with small numbers, eps decides."""
    norm = RMSNorm(ARGS.dim, eps=1e-5)
    norm.requires_grad_(False)
    norm.weight.normal_(generator=torch.Generator().manual_seed(3))
    norm.to(dtype).prepare()
    for size in (1e-3, 1.0, 1e3):
        rows = some_rows(count, dtype) * size
        expected = F.rms_norm(rows, (ARGS.dim,), None, 1e-5) * norm.weight
        torch.testing.assert_close(norm(rows), expected, rtol=1e-6 if dtype is torch.float32 else 1e-2, atol=1e-6)


def test_no_row_of_zeros_becomes_infinite() -> None:
    """eps is inside the root, whichever way is taken."""
    norm = RMSNorm(ARGS.dim, eps=1e-5)
    norm.requires_grad_(False)
    norm.weight.fill_(1)
    norm.prepare()
    for count in (1, 2):
        assert not norm(torch.zeros(count, ARGS.dim)).any()


# --- Caches ---------------------------------------------------------------------------------------------------------


def test_caches_that_are_made_at_once_all_have_their_rotary_angles() -> None:
    """Threads that share a half ask for caches of several lengths; what the longest needs is not made shorter again."""
    lengths = [10, 1000, 100, 2000, 30, 300]
    begin = threading.Barrier(len(lengths))

    def asking(model: CloudTransformer, length: int) -> None:
        begin.wait()
        model.new_cache(1, length)

    for _ in range(40):
        model = cloud_half(1)
        with ThreadPoolExecutor(len(lengths)) as devices:
            list(devices.map(asking, [model] * len(lengths), lengths))
        assert len(model.freqs_cis) == max(lengths)
