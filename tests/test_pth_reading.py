"""What ``torch.save`` writes is read as ``torch.load`` reads it, without the pickle being run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llama.checkpoint.pth_reading import ForeignContents, NotAStateDict, OldFormat, read_state_dict

DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn,
]  # fmt: skip
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
CHANGES: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda tensor: tensor,
    lambda tensor: tensor.t() if tensor.dim() == 2 else tensor,
    lambda tensor: tensor[1:] if tensor.dim() and len(tensor) > 1 else tensor,
    lambda tensor: nn.Parameter(tensor, requires_grad=False),
]


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Names in their order, dtypes, shapes, strides and bytes."""
    return list(found) == list(expected) and all(
        (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        and a.contiguous().flatten().view(torch.uint8).equal(b.contiguous().flatten().view(torch.uint8))
        for a, b in zip(found.values(), expected.values(), strict=True)
    )


def test_any_tensors_by_name_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    """Every dtype, dimensions of 0 and none at all, views, parameters, storages of several names, ordered dicts."""
    path = tmp_path / "a.pth"
    tensors = st.tuples(SHAPES, st.sampled_from(DTYPES), st.sampled_from(CHANGES))

    @given(st.dictionaries(st.text(max_size=300), tensors, max_size=12), st.booleans(), st.booleans())
    def read(drawn: dict[str, tuple[tuple[int, ...], torch.dtype, Callable[[torch.Tensor], torch.Tensor]]],
             ordered: bool, tied: bool) -> None:  # fmt: skip
        saved = {name: change(torch.randn(shape).to(dtype)) for name, (shape, dtype, change) in drawn.items()}
        if tied and saved:
            saved["one more"] = next(iter(saved.values()))
        torch.save(OrderedDict(saved) if ordered else saved, path)
        assert same(read_state_dict(path), torch.load(path, weights_only=True))

    read()


def test_a_modules_state_dict_is_read(tmp_path: Path) -> None:
    """It says of which version each part of the module is, which is left out."""
    saved = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    torch.save(saved, tmp_path / "a.pth")
    assert same(read_state_dict(tmp_path / "a.pth"), dict(saved))


def test_files_without_check_sums_or_alignment_are_read(tmp_path: Path) -> None:
    """As torch writes them if it is told to."""
    saved = {"a": torch.randn(3), "b": torch.randn(70, 2)}
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(saved, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(read_state_dict(tmp_path / "a.pth"), saved)


@pytest.mark.parametrize(
    "contents", [[torch.ones(1)], {"a": 1.5}, {"a": {"b": torch.ones(1)}}, {1: torch.ones(1)}, "a"]
)
def test_what_is_no_state_dict_is_refused(contents: object, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "a.pth")
    with pytest.raises(NotAStateDict):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "contents",
    [
        {"a": torch.ones(2).to_sparse()},
        {"a": torch.empty(2, device="meta")},
        {"a": Path("b")},
        {"a": {1}},
        nn.Linear(1, 1),
    ],
    ids=["sparse", "meta", "path", "set", "module"],
)
def test_what_only_a_running_pickle_could_make_is_refused(contents: object, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "a.pth")
    with pytest.raises(ForeignContents):
        read_state_dict(tmp_path / "a.pth")


def test_a_file_of_the_format_before_torch_1_6_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    """It is no archive; torch still writes it if it is told to."""
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(OldFormat):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("view", [torch._neg_view(torch.ones(2)), torch.ones(2, dtype=torch.complex64).conj()])
def test_a_tensor_of_which_more_is_true_than_its_bytes_say_is_refused(view: torch.Tensor, tmp_path: Path) -> None:
    """Negated and conjugated views say so beside the bytes."""
    torch.save({"a": view}, tmp_path / "a.pth")
    with pytest.raises(ForeignContents):
        read_state_dict(tmp_path / "a.pth")
