"""GGUF files of Llama architecture.

Knows: llama.cpp's metadata keys and tensor names (github.com/ggml-org/llama.cpp, ``gguf-py/gguf/constants.py``), and
that its converter stores query and key rows in Meta's order, for adjacent rotary pairs.
Knows nothing about: the file format (``gguf_reading``), the quantisation formats, which the gguf library undoes, or
vocabularies (``vocabulary``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import gguf
import msgspec
import numpy as np
import torch

from llama.checkpoint import layout, shards, vocabulary
from llama.checkpoint.gguf_reading import GGUFFile
from llama.checkpoint.shape_rules import feed_forward_fields, scaling_factor
from llama.checkpoint.source import check_vocabulary
from llama.errors import CheckpointError
from llama.files import shown
from llama.model import ModelArgs, scale_freqs

_TOP = {
    layout.EMBEDDINGS: "token_embd.weight",
    layout.NORM: "output_norm.weight",
    layout.OUTPUT: "output.weight",
}
_LAYER = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}
_ROPE_FACTORS = "rope_freqs.weight"
_FACTOR_TOLERANCE = 1e-4  # the table is computed in float32, the factor read off its end

T = TypeVar("T")


def gguf_name(name: str) -> str:
    """GGUF's name of the tensor that Meta calls ``name``."""
    if name in _TOP:
        return _TOP[name]
    _, number, rest = name.split(".", 2)
    return f"blk.{number}.{_LAYER[rest.removesuffix('.weight')]}.weight"


class GGUFSource:
    """A ``.gguf`` file; see ``source.Source`` for the attributes. Tensors come dequantised, in float32.

    Args:
        path: the file.
        rope_scaling_factor: overrules the factor that the file's rotary table shows.
        chat_format: overrules the chat template, see ``templates``.

    Raises:
        CheckpointError: damaged, of another architecture, or with something this reader does not know.
        TokenizerError: its vocabulary is not supported.
    """

    dtype = torch.float32

    def __init__(self, path: Path, rope_scaling_factor: float | None = None, chat_format: str | None = None) -> None:
        self._where = str(path)
        try:
            self._file = GGUFFile(path)
        except OSError as err:
            raise CheckpointError(f"{path} cannot be read: {err.strerror or err}") from None
        except (ValueError, struct.error) as err:
            raise CheckpointError(f"{path} is damaged, incomplete or not a GGUF file ({err}); get it again") from None
        self._tensors = self._file.tensors
        self._refuse_other_kinds()
        self.args = self._read_args(rope_scaling_factor)
        layout.check_numbers(self.args, self._where)
        layout.check_layers(self.args.n_layers, len(self._tensors), self._where)
        self.context_length = self._field("llama.context_length", int)
        layout.check_context_length(self.context_length, self._where)
        self.tied = gguf_name(layout.OUTPUT) not in self._tensors
        self._check_tensors()
        self.vocabulary = vocabulary.from_gguf(self._file, self._where, chat_format)
        check_vocabulary(self.vocabulary, self.args.vocab_size, self._where)
        self._file.forget_fields()  # the vocabulary is among them
        types = sorted({tensor.tensor_type.name for tensor in self._tensors.values()})
        self.description = f"GGUF file, {'/'.join(types)}"

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """float32 slabs of the tensor ``name``; see ``source.Source``."""
        tensor = self._tensors[gguf_name(name)]
        width = tensor.shape[-1]
        data = tensor.data if len(tensor.shape) > 1 else tensor.data[np.newaxis]
        for first, last in shards.slabs(0, len(data), width * 4):
            try:
                values = gguf.dequantize(data[first:last], tensor.tensor_type)
            except NotImplementedError:
                raise CheckpointError(
                    f"{self._where}: {tensor.name} is of type {tensor.tensor_type.name}, which cannot be dequantised; "
                    "use a file in another quantisation"
                ) from None
            slab = torch.from_numpy(np.array(values, dtype=np.float32))
            yield slab if len(tensor.shape) > 1 else slab.flatten()

    def _refuse_other_kinds(self) -> None:
        architecture = self._field("general.architecture", str)
        if architecture != "llama":
            raise CheckpointError(
                f"{self._where} holds a model of architecture '{shown(architecture)}'; supported is llama"
            )
        if self._field("split.count", int, 1) > 1:
            raise CheckpointError(f"{self._where} is one part of several; merge them first (llama-gguf-split --merge)")
        if self._field("llama.expert_count", int, 0) > 0:
            raise CheckpointError(f"{self._where} is a mixture of experts, which is not supported")
        scaling = self._field("llama.rope.scaling.type", str, "none")
        if scaling != "none":
            raise CheckpointError(f"{self._where} uses '{shown(scaling)}' rotary scaling; supported is Llama 3.1's")

    def _read_args(self, asked_factor: float | None) -> ModelArgs:
        dim, n_heads = self._field("llama.embedding_length", int), self._field("llama.attention.head_count", int)
        multiple_of, multiplier = feed_forward_fields(dim, self._field("llama.feed_forward_length", int))
        theta = _shortest(self._field("llama.rope.freq_base", float, 10000.0))
        if dim < 1 or n_heads < 1 or dim % n_heads:
            raise CheckpointError(f"{self._where}: {n_heads} heads do not divide a width of {dim}")
        for key in ("llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"):
            if self._field(key, int, dim // n_heads) != dim // n_heads:
                raise CheckpointError(f"{self._where}: {key} differs from width / heads, which is not supported")
        embeddings = self._tensors.get(gguf_name(layout.EMBEDDINGS))
        if embeddings is None:
            raise CheckpointError(f"{self._where} lacks the tensor {gguf_name(layout.EMBEDDINGS)}; get the file again")
        scaled = _ROPE_FACTORS in self._tensors
        stated = self._stated_factor(dim // n_heads, theta) if scaled else None
        return ModelArgs(
            dim=dim,
            n_layers=self._field("llama.block_count", int),
            n_heads=n_heads,
            n_kv_heads=self._field("llama.attention.head_count_kv", int, n_heads),
            vocab_size=embeddings.shape[0],
            multiple_of=multiple_of,
            ffn_dim_multiplier=multiplier,
            norm_eps=_shortest(self._field("llama.attention.layer_norm_rms_epsilon", float)),
            rope_theta=theta,
            use_scaled_rope=scaled,
            rope_scaling_factor=scaling_factor(scaled, stated, asked_factor, dim, self._where),
        )

    def _stated_factor(self, head_dim: int, theta: float) -> float:
        """The factor of Llama 3.1's scaling that made the file's table of divisors, one per rotary frequency."""
        table = self._tensors[_ROPE_FACTORS]
        if table.tensor_type == gguf.GGMLQuantizationType.F32 and table.shape == (head_dim // 2,):
            divisors = torch.from_numpy(np.array(table.data, dtype=np.float32))
            factor = round(float(divisors.max()), 4)
            freqs = 1.0 / (theta ** (torch.arange(0, head_dim, 2).float() / head_dim))
            if torch.allclose(freqs / divisors, scale_freqs(freqs, factor), rtol=_FACTOR_TOLERANCE):
                return factor
        raise CheckpointError(f"{self._where}: {_ROPE_FACTORS} is not Llama 3.1's rotary scaling")

    def _check_tensors(self) -> None:
        """The file has the model's tensors, of the right shapes, and no others."""
        expected = {gguf_name(name): shape for name, shape in layout.tensor_shapes(self.args).items()}
        if self.tied:
            del expected[gguf_name(layout.OUTPUT)]
        for name, shape in expected.items():
            if name not in self._tensors:
                raise CheckpointError(f"{self._where} lacks the tensor {name}; get the file again")
            found = self._tensors[name].shape
            if found != shape:
                raise CheckpointError(f"{self._where}: {name} has shape {found}, its metadata make it {shape}")
        unknown = sorted(self._tensors.keys() - expected.keys() - {_ROPE_FACTORS})
        if unknown:
            raise CheckpointError(
                f"{self._where} holds tensors that a Llama model does not have: {shown(unknown[0])}, …"
            )

    def _field(self, name: str, kind: type[T], default: T | None = None) -> T:
        """A metadata field, or ``default`` where there is one."""
        try:
            value = self._file.get(name)
            if value is not None:
                return msgspec.convert(value, kind)
        except (msgspec.ValidationError, UnicodeDecodeError) as err:
            raise CheckpointError(f"{self._where}: metadata field {name} is malformed: {err}") from None
        if default is None:
            raise CheckpointError(f"{self._where}: metadata field {name} is missing; get the file again")
        return default


def _shortest(value: float) -> float:
    """The number of fewest digits that is the same in GGUF's float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))
