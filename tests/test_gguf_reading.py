"""A GGUF's header is read as the gguf library reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.checkpoint.gguf_reading import GGUFFile

Fields = dict[str, tuple[gguf.GGUFValueType, Any]]
Tensors = dict[str, tuple[gguf.GGMLQuantizationType, list[int], int]]
KINDS = {
    gguf.GGUFValueType.UINT8: st.integers(0, 2**8 - 1),
    gguf.GGUFValueType.INT8: st.integers(-(2**7), 2**7 - 1),
    gguf.GGUFValueType.UINT16: st.integers(0, 2**16 - 1),
    gguf.GGUFValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    gguf.GGUFValueType.UINT64: st.integers(0, 2**64 - 1),
    gguf.GGUFValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    gguf.GGUFValueType.FLOAT64: st.floats(allow_nan=False),
    gguf.GGUFValueType.BOOL: st.booleans(),
    gguf.GGUFValueType.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
}
VALUES = st.one_of(
    *(st.tuples(st.just(kind), values) for kind, values in KINDS.items()),
    *(st.tuples(st.just(kind), st.lists(values, min_size=1, max_size=8)) for kind, values in KINDS.items()),
)
NAMES = st.text("abcdé._0", min_size=1, max_size=30).map("x.".__add__)
TYPES = [gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0,
         gguf.GGMLQuantizationType.Q4_0]  # fmt: skip
TENSORS = st.tuples(st.sampled_from(TYPES), st.lists(st.integers(1, 3), max_size=3), st.sampled_from([32, 64]))


def test_any_fields_and_tensors_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    """Numbers of every kind, texts, lists of them, alignments, and tensors as they are or in blocks."""
    path = tmp_path / "a.gguf"

    @given(st.dictionaries(NAMES, VALUES, max_size=8), st.dictionaries(NAMES, TENSORS, max_size=5),
           st.sampled_from([None, 8, 32, 256]))  # fmt: skip
    def read(fields: Fields, tensors: Tensors, alignment: int | None) -> None:
        writer = gguf.GGUFWriter(path, "llama")
        if alignment is not None:
            writer.add_custom_alignment(alignment)
        for name, (kind, value) in fields.items():
            if isinstance(value, list):
                writer.add_key_value(name, value, gguf.GGUFValueType.ARRAY, sub_type=kind)
            else:
                writer.add_key_value(name, value, kind)
        for name, (type_, outer, width) in tensors.items():
            values = np.random.default_rng(0).normal(size=(*outer, width)).astype(np.float32)
            writer.add_tensor(name, gguf.quantize(values, type_), raw_dtype=type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        library, ours = gguf.GGUFReader(path), GGUFFile(path)
        for name, field in library.fields.items():
            if not name.startswith("GGUF."):
                assert ours.get(name) == field.contents()
        assert ours.get("y") is None
        assert list(ours.tensors) == [tensor.name for tensor in library.tensors]
        for tensor in library.tensors:
            found = ours.tensors[tensor.name]
            assert (found.tensor_type, found.shape[::-1]) == (tensor.tensor_type, tuple(tensor.shape.tolist()))
            assert found.data.dtype == tensor.data.dtype and np.array_equal(found.data, tensor.data)

    read()


def test_any_bytes_are_a_gguf_or_refused_in_words(tmp_path: Path) -> None:
    """Nothing but ``ValueError`` comes of what follows a sound beginning."""
    path = tmp_path / "a.gguf"

    @given(st.binary(max_size=200), st.booleans())
    def read(data: bytes, begun: bool) -> None:
        path.write_bytes(
            (b"GGUF\x03\x00\x00\x00" + data[:1] + bytes(7) + data[1:2] + bytes(7) if begun else b"") + data
        )
        try:
            GGUFFile(path)
        except ValueError as err:
            assert str(err).isprintable()

    read()


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        GGUFFile(tmp_path / "a.gguf")
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ValueError, match="it is empty"):
        GGUFFile(tmp_path / "a.gguf")
