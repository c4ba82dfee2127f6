"""GGUF files of Llama architecture.

Knows: llama.cpp's metadata keys and tensor names (github.com/ggml-org/llama.cpp, ``gguf-py/gguf/constants.py``), and
that its converter stores query and key rows in Meta's order, for adjacent rotary pairs.
Knows nothing about: the file format (``gguf_reading``), the quantisation formats (the gguf library dequantises),
vocabularies (``vocabulary``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import torch

from llama.checkpoint import layout, shards, signatures, vocabulary
from llama.checkpoint.gguf_reading import GGUFFile, GGUFTensor, NotSupported
from llama.checkpoint.shape_rules import feed_forward_fields, scaling_factor
from llama.checkpoint.source import check_vocabulary, narrowed, unreadable
from llama.errors import CheckpointError
from llama.files import shown
from llama.model import scale_freqs
from llama.model_args import ModelArgs

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
_ROTARY_TABLE = "attn_rot_embd"  # frequencies that early converters stored in each layer
_FACTOR_TOLERANCE = 1e-4  # the table is computed in float32, and the factor is its largest entry

_Type = gguf.GGMLQuantizationType
_WHOLE_NUMBERS = (_Type.I8, _Type.I16, _Type.I32, _Type.I64)


def gguf_name(name: str) -> str:
    """Return the GGUF name of the tensor that Meta calls ``name``."""
    if name in _TOP:
        return _TOP[name]
    _, number, rest = name.split(".", 2)
    return f"blk.{number}.{_LAYER[rest.removesuffix('.weight')]}.weight"


class GGUFSource:
    """A ``.gguf`` file. See ``source.Source`` for the attributes. Tensors are dequantised to float32.

    Args:
        path: the file.
        rope_scaling_factor: overrides the factor that the file's rotary table shows.
        chat_format: overrides the chat template; see ``templates``.

    Raises:
        CheckpointError: the file is damaged, of another architecture, or has a feature that this reader does not know.
        TokenizerError: its vocabulary is not supported.
    """

    dtype = torch.float32

    def __init__(self, path: Path, rope_scaling_factor: float | None = None, chat_format: str | None = None) -> None:
        self._where = str(path)
        try:
            self._file = GGUFFile(path)
        except OSError as err:
            raise unreadable(path, err) from None
        except NotSupported as err:
            raise CheckpointError(f"{path} {err}") from None
        except (ValueError, struct.error) as err:
            what = signatures.misplaced(path, binary=True) or signatures.other_format(path, "GGUF")
            if what is not None:
                raise CheckpointError(f"{path} {what}") from None
            raise CheckpointError(f"{path} is damaged, incomplete or not a GGUF file ({err}); get it again") from None
        self._tensors = self._file.tensors
        self._refuse_other_kinds()
        self._refuse_other_scalings()
        self.args = self._read_args(rope_scaling_factor)
        layout.check_numbers(self.args, self._where)
        layout.check_layers(self.args.n_layers, len(self._tensors), self._where)
        self.context_length = self._field("llama.context_length", int)
        layout.check_context_length(self.context_length, self._where)
        self.tied = gguf_name(layout.OUTPUT) not in self._tensors
        self._check_tensors()
        self.vocabulary = vocabulary.from_gguf(self._file, self._where, chat_format)
        check_vocabulary(self.vocabulary, self.args.vocab_size, self._where)
        self._file.forget_fields()  # frees the vocabulary's fields
        types = sorted({tensor.tensor_type.name for tensor in self._tensors.values()})
        self.description = f"GGUF file, {'/'.join(types)}"

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """Yield float32 slabs of the tensor ``name``; see ``source.Source``."""
        tensor = self._tensors[gguf_name(name)]
        width, vector = tensor.shape[-1], len(layout.tensor_shapes(self.args)[name]) == 1
        data = tensor.data.reshape(-1, tensor.data.shape[-1])
        itemsize = 8 if tensor.tensor_type == gguf.GGMLQuantizationType.F64 else 4
        for first, last in shards.slabs(0, len(data), width * itemsize):
            piece = data[first:last]
            if tensor.tensor_type == gguf.GGMLQuantizationType.F64:
                slab = narrowed(torch.from_numpy(np.array(piece, dtype=np.float64)), tensor.name, self._where)
            else:
                slab = torch.from_numpy(np.array(gguf.dequantize(piece, tensor.tensor_type), dtype=np.float32))
            yield slab.flatten() if vector else slab

    def _refuse_other_kinds(self) -> None:
        if self._field("split.count", int, 1) > 1:  # checked first: only the first part has the other fields
            number = self._field("split.no", int, 0) + 1
            raise CheckpointError(
                f"{self._where} is one part of several ({number} of {self._field('split.count', int)}); merge them "
                "first (llama-gguf-split --merge, with the first part) and give the merged file"
            )
        architecture = self._field("general.architecture", str)
        if architecture != "llama":
            raise CheckpointError(
                f"{self._where} holds a model of architecture '{shown(architecture)}'; only llama is supported; "
                "use a Llama text model"
            )
        kind = self._field("general.type", str, "model")
        if kind != "model":
            raise CheckpointError(
                f"{self._where} is not a model: its type is '{shown(kind)}' (general.type); give "
                f"the model's file, with any adapter merged into it"
            )
        if self._field("llama.expert_count", int, 0) > 0:
            raise CheckpointError(
                f"{self._where} is a mixture of experts, which is not supported; use a dense Llama model"
            )
        if not self._tensors:
            raise CheckpointError(
                f"{self._where} holds no tensors, only a vocabulary or metadata; give the model's file"
            )

    def _refuse_other_scalings(self) -> None:
        """Refuse scalings other than the rotary table of Llama 3.1.

        A missing scaling type means ``linear``. Linear scaling by 1, or without a factor, changes nothing (llama.cpp,
        ``llama-model.cpp``). Scaled attention and attention to later positions are refused, too.
        """
        attention_factor = self._field("llama.rope.scaling.attn_factor", float, 1.0)
        if attention_factor not in (0.0, 1.0):
            raise CheckpointError(
                f"{self._where} scales its attention by {attention_factor:g} "
                f"(llama.rope.scaling.attn_factor), which is not supported; use another Llama "
                f"model"
            )
        if not self._field("llama.attention.causal", bool, True):
            raise CheckpointError(
                f"{self._where} attends to later positions (llama.attention.causal is false), which is not "
                f"supported; use a model that generates text"
            )
        scaling = self._field("llama.rope.scaling.type", str, "linear")
        factor = self._field("llama.rope.scaling.factor", float, self._field("llama.rope.scale_linear", float, 0.0))
        if scaling == "none" or (scaling == "linear" and factor in (0.0, 1.0)):
            return
        raise CheckpointError(
            f"{self._where} uses '{shown(scaling)}' rotary scaling (llama.rope.scaling); only "
            f"Llama 3.1's, as a table of factors, is supported; use another model"
        )

    def _read_args(self, asked_factor: float | None) -> ModelArgs:
        dim, n_heads = self._field("llama.embedding_length", int), self._of_layers("llama.attention.head_count")
        multiple_of, multiplier = feed_forward_fields(dim, self._of_layers("llama.feed_forward_length"))
        theta = _shortest(self._field("llama.rope.freq_base", float, 10000.0))
        if dim < 1 or n_heads < 1 or dim % n_heads:
            raise CheckpointError(
                f"{self._where}: {n_heads} heads (llama.attention.head_count) do not divide a width "
                f"of {dim} (llama.embedding_length), which is not supported; use another Llama model"
            )
        for key in ("llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"):
            if self._field(key, int, dim // n_heads) != dim // n_heads:
                raise CheckpointError(
                    f"{self._where}: {key} differs from width / heads, which is not supported; use another Llama model"
                )
        embeddings = self._tensors.get(gguf_name(layout.EMBEDDINGS))
        if embeddings is None:
            raise CheckpointError(
                f"{self._where} lacks the tensor {gguf_name(layout.EMBEDDINGS)}; use a file of the whole model"
            )
        scaled = _ROPE_FACTORS in self._tensors
        stated = self._stated_factor(dim // n_heads, theta) if scaled else None
        return ModelArgs(
            dim=dim,
            n_layers=self._field("llama.block_count", int),
            n_heads=n_heads,
            n_kv_heads=self._of_layers("llama.attention.head_count_kv", n_heads),
            vocab_size=embeddings.shape[0],
            multiple_of=multiple_of,
            ffn_dim_multiplier=multiplier,
            norm_eps=_shortest(self._field("llama.attention.layer_norm_rms_epsilon", float)),
            rope_theta=theta,
            use_scaled_rope=scaled,
            rope_scaling_factor=scaling_factor(scaled, stated, asked_factor, dim, self._where),
        )

    def _stated_factor(self, head_dim: int, theta: float) -> float:
        """Return the Llama 3.1 scaling factor behind the file's table of divisors (one per rotary frequency)."""
        table = self._tensors[_ROPE_FACTORS]
        if table.tensor_type == gguf.GGMLQuantizationType.F32 and table.shape == (head_dim // 2,):
            divisors = torch.from_numpy(np.array(table.data, dtype=np.float32))
            factor = round(float(divisors.max()), 4)
            freqs = 1.0 / (theta ** (torch.arange(0, head_dim, 2).float() / head_dim))
            if torch.allclose(freqs / divisors, scale_freqs(freqs, factor), rtol=_FACTOR_TOLERANCE):
                return factor
        raise CheckpointError(
            f"{self._where}: {_ROPE_FACTORS} is not Llama 3.1's rotary scaling; use a model with that or none"
        )

    def _check_tensors(self) -> None:
        """Check that the file has exactly the model's tensors, with the right shapes and as floating-point numbers."""
        expected = {gguf_name(name): shape for name, shape in layout.tensor_shapes(self.args).items()}
        if self.tied:
            del expected[gguf_name(layout.OUTPUT)]
        for name, shape in expected.items():
            if name not in self._tensors:
                raise CheckpointError(f"{self._where} lacks the tensor {name}; use a file of the whole model")
            tensor = self._tensors[name]
            if _squeezed(tensor, len(shape)) != shape:
                raise CheckpointError(
                    f"{self._where}: {name} has shape {tensor.shape}, but its metadata require {shape}; "
                    f"use a file as its converter wrote it"
                )
            if tensor.tensor_type in _WHOLE_NUMBERS:
                raise CheckpointError(
                    f"{self._where}: {name} is stored in type {tensor.tensor_type.value} "
                    f"({tensor.tensor_type.name}), an integer type, but weights are not integers; use a "
                    f"file in another type"
                )
        unknown = sorted(self._tensors.keys() - expected.keys() - {_ROPE_FACTORS})
        unknown = [name for name in unknown if _ROTARY_TABLE not in name.split(".")]
        if unknown:
            raise CheckpointError(
                f"{self._where} holds tensors that a Llama model does not have: {shown(unknown[0])}, … "
                f"({len(unknown)} in all); use a Llama text model"
            )

    def _of_layers(self, name: str, default: int | None = None) -> int:
        """Return an integer field that holds for every layer. The file may list one per layer if all are equal."""
        given: int | list[int] = self._field(name, int | list[int], default)
        if isinstance(given, int):
            return given
        if len(set(given)) != 1:
            raise CheckpointError(
                f"{self._where}: {name} differs from layer to layer, which is not supported; use another Llama model"
            )
        return given[0]

    def _field(self, name: str, kind: Any, default: Any = None) -> Any:
        """Return a metadata field, or ``default`` (if given) when the field is missing."""
        try:
            value = self._file.get(name)
            if value is not None:
                return msgspec.convert(value, kind)
        except (msgspec.ValidationError, UnicodeDecodeError) as err:
            raise CheckpointError(
                f"{self._where}: metadata field {name} is malformed: {err}; use a file as its converter wrote it"
            ) from None
        if default is None:
            raise CheckpointError(
                f"{self._where}: metadata field {name} is missing, which every Llama file has; "
                f"use a file as its converter wrote it"
            )
        return default


def _squeezed(tensor: GGUFTensor, dimensions: int) -> tuple[int, ...]:
    """Return the tensor's shape without the outer dimensions of 1 beyond ``dimensions``, which some writers add."""
    shape = tensor.shape
    while len(shape) > dimensions and shape[0] == 1:
        shape = shape[1:]
    return shape


def _shortest(value: float) -> float:
    """Return the shortest decimal with the same float32 value: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))
