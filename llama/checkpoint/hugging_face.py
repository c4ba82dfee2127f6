"""Hugging Face directories: config.json, model.safetensors (or an index and its parts), tokenizer.json.

Knows: the names and the layout that transformers' ``LlamaForCausalLM`` saves, config.json's spellings of the rotary
settings before and since transformers 5, and the order of query and key rows: for rotary pairs half a head apart,
where Meta's are for adjacent pairs.
Knows nothing about: other architectures, vocabularies (``vocabulary``), halves.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from llama.checkpoint import layout, shards, vocabulary
from llama.checkpoint.shape_rules import feed_forward_fields, scaling_factor
from llama.checkpoint.source import check_vocabulary, distinct_files, prevailing_dtype
from llama.errors import CheckpointError
from llama.files import lies_there, open_regular, read_json, shown
from llama.model import HIGH_FREQ_FACTOR, LOW_FREQ_FACTOR, OLD_CONTEXT_LEN, ModelArgs

_TOP = {
    layout.EMBEDDINGS: "model.embed_tokens.weight",
    layout.NORM: "model.norm.weight",
    layout.OUTPUT: "lm_head.weight",
}
_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_CONFIG_BYTES, MAX_INDEX_BYTES = 1 << 20, 4 << 20  # a model of 1,000 tensors has an index of 0.1 MiB
MAX_HEADER_BYTES = 4 << 20  # of a safetensors file; of 1,000 tensors it has 0.1 MiB
MAX_HEADERS_BYTES = 16 << 20  # of all files together; each byte takes four of memory
MAX_TENSORS = 100_000  # likewise
MAX_NAME_CHARACTERS = 200  # of a file; systems take 255 bytes
MAX_FILES = 512  # Llama 3.1 405B has 191; each stays open
_KINDS_SHOWN, _SIZES_SHOWN = 8, 8
_DROPPED_SUFFIX = "rotary_emb.inv_freq"  # stored by old versions; follows from the configuration
_SCALING = {
    "low_freq_factor": LOW_FREQ_FACTOR,
    "high_freq_factor": HIGH_FREQ_FACTOR,
    "original_max_position_embeddings": OLD_CONTEXT_LEN,
}


class _Config(msgspec.Struct):
    """Fields of config.json; those without a default are in every Llama's. Defaults are ``LlamaConfig``'s."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    rms_norm_eps: float
    max_position_embeddings: int
    model_type: str = ""
    architectures: list[str] | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool | None = None
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None

    @property
    def rope(self) -> dict[str, Any]:
        """The rotary settings, under the names of ``rope_parameters``."""
        settings = self.rope_parameters or self.rope_scaling or {}
        kind = settings.get("rope_type", settings.get("type", "default"))
        return {"rope_theta": self.rope_theta, **settings, "rope_type": kind}


def hugging_face_name(name: str) -> str:
    """The name in a Hugging Face checkpoint of the tensor that Meta calls ``name``."""
    if name in _TOP:
        return _TOP[name]
    _, number, rest = name.split(".", 2)
    return f"model.layers.{number}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def adjacent_pairs(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Query or key rows ``(heads · head_dim, dim)`` from rotary pairs half a head apart to adjacent ones."""
    return rows.view(-1, 2, head_dim // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


class HuggingFaceSource:
    """A directory as transformers saves it; see ``source.Source`` for the attributes.

    Args:
        directory: where config.json, tokenizer.json and the safetensors files lie.
        rope_scaling_factor: overrules the factor of the scaled rotary embedding.
        chat_format: overrules the chat template, see ``templates``.

    Raises:
        CheckpointError: something is missing, damaged, contradictory or of a kind that is not supported.
        TokenizerError: its tokenizer is not supported.
    """

    def __init__(
        self, directory: Path, rope_scaling_factor: float | None = None, chat_format: str | None = None
    ) -> None:
        self._directory = directory
        config = _read_config(directory)
        self.args = _args(config, directory / "config.json", rope_scaling_factor)
        self.context_length = config.max_position_embeddings
        layout.check_context_length(self.context_length, str(directory / "config.json"))
        files, stated = _weight_files(directory)
        self._files, self._holder = _open_all(files, stated)
        layout.check_layers(self.args.n_layers, len(self._holder), str(directory / "config.json"))
        has_head = hugging_face_name(layout.OUTPUT) in self._holder
        # Without a word on it a missing head is a tied one; with False it was lost.
        self.tied = not has_head if config.tie_word_embeddings is None else config.tie_word_embeddings
        self._check_tensors()
        self.dtype = self._prevailing_dtype()
        self.vocabulary = vocabulary.from_hugging_face(directory, chat_format)
        check_vocabulary(self.vocabulary, self.args.vocab_size, str(directory))
        self.description = f"Hugging Face directory, {len(files)} file(s)"

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """Slabs of the tensor ``name`` in the files' dtype; see ``source.Source``."""
        turned = name.endswith(("attention.wq.weight", "attention.wk.weight"))
        multiple = self.args.head_dim if turned else 1
        part = self._slice(hugging_face_name(name))
        shape = part.get_shape()
        row_bytes = 4 * (shape[1] if len(shape) > 1 else 1)
        for first, last in shards.slabs(0, shape[0], row_bytes, multiple):
            slab: torch.Tensor = part[first:last]
            yield adjacent_pairs(slab, self.args.head_dim) if turned else slab

    def _slice(self, name: str) -> Any:
        return self._files[self._holder[name]].get_slice(name)

    def _check_tensors(self) -> None:
        """The files have the model's tensors, of the right shapes, and no others."""
        expected = {hugging_face_name(name): shape for name, shape in layout.tensor_shapes(self.args).items()}
        head = hugging_face_name(layout.OUTPUT)
        if self.tied:
            del expected[head]
        for name, shape in expected.items():
            if name not in self._holder:
                raise CheckpointError(f"{self._directory} lacks the tensor {name}; get the checkpoint again")
            found = tuple(self._slice(name).get_shape())
            if found != shape:
                where = self._holder[name]
                raise CheckpointError(
                    f"{where}: {name} has shape {shown(str(found[:_SIZES_SHOWN]))}, config.json makes it {shape}"
                )
        known = expected.keys() | {head}
        unknown = sorted(k for k in self._holder.keys() - known if not k.endswith(_DROPPED_SUFFIX))
        if unknown:
            raise CheckpointError(
                f"{self._holder[unknown[0]]} holds a tensor that a Llama model does not have: {shown(unknown[0])} "
                f"({len(unknown)} such in all)"
            )

    def _prevailing_dtype(self) -> torch.dtype:
        kinds = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}

        def described(name: str) -> tuple[str, int, torch.dtype]:
            part = self._slice(name)
            elements = torch.Size(part.get_shape()).numel()
            return name, elements, kinds.get(part.get_dtype(), torch.uint8)

        names = layout.tensor_shapes(self.args).keys() - ({layout.OUTPUT} if self.tied else set())
        return prevailing_dtype((described(hugging_face_name(name)) for name in names), str(self._directory))


def _read_config(directory: Path) -> _Config:
    path = directory / "config.json"
    try:
        config = msgspec.json.decode(read_json(path, MAX_CONFIG_BYTES), type=_Config)
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror or err}") from None
    except msgspec.ValidationError as err:
        raise CheckpointError(f"{path}: {err}; supported are Llama models") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CheckpointError(f"{path} is not JSON; get the file again") from None
    kinds = [*(config.architectures or []), config.model_type]
    if not {"LlamaForCausalLM", "llama"} & set(kinds) or config.model_type not in ("", "llama"):
        found = shown(", ".join(map(shown, filter(None, kinds[:_KINDS_SHOWN]))))
        raise CheckpointError(f"{path} is of another architecture ({found}), not Llama's")
    if config.quantization_config:
        raise CheckpointError(f"{path} is of a quantised model, which is not supported; use an unquantised one")
    if config.attention_bias or config.mlp_bias:
        raise CheckpointError(f"{path} asks for biases (attention_bias or mlp_bias), which Llama models do not have")
    if config.hidden_act != "silu":
        raise CheckpointError(f"{path} asks for the activation '{shown(config.hidden_act)}'; supported is silu")
    return config


def _args(config: _Config, path: Path, asked_factor: float | None) -> ModelArgs:
    dim, n_heads, n_kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    sizes = (dim, n_heads, n_kv_heads, config.intermediate_size, config.num_hidden_layers, config.vocab_size)
    if (
        min(sizes) < 1
        or max(sizes) > layout.LARGEST_SIZE
        or dim % n_heads
        or dim // n_heads % 2
        or n_heads % n_kv_heads
    ):
        raise CheckpointError(f"{path}: its sizes and numbers of heads do not fit together")
    if config.head_dim not in (None, dim // n_heads):
        raise CheckpointError(
            f"{path}: head_dim {shown(config.head_dim)} is not hidden_size / heads, which is not supported"
        )
    scaled = _scaled_rope(config.rope, path)
    multiple_of, multiplier = feed_forward_fields(dim, config.intermediate_size)
    args = ModelArgs(
        dim=dim,
        n_layers=config.num_hidden_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        vocab_size=config.vocab_size,
        multiple_of=multiple_of,
        ffn_dim_multiplier=multiplier,
        norm_eps=config.rms_norm_eps,
        rope_theta=_number(config.rope, "rope_theta", path),
        use_scaled_rope=scaled,
        rope_scaling_factor=scaling_factor(
            scaled, _number(config.rope, "factor", path) if scaled else None, asked_factor, dim, str(path)
        ),
    )
    layout.check_numbers(args, str(path))
    return args


def _scaled_rope(rope: dict[str, Any], path: Path) -> bool:
    """Whether the rotary embedding is scaled as Llama 3.1's; any other scaling is refused."""
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(f"{path} rotates only a part of each head, which is not supported")
    if rope["rope_type"] == "default":
        return False
    if rope["rope_type"] != "llama3":
        raise CheckpointError(
            f"{path} uses '{shown(rope['rope_type'])}' rotary scaling; supported are default and llama3"
        )
    for key, value in _SCALING.items():
        if _number(rope, key, path) != value:
            raise CheckpointError(f"{path}: {key} of the rotary scaling must be {value:g}")
    return True


def _number(rope: dict[str, Any], key: str, path: Path) -> float:
    value = rope.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{path}: the rotary settings lack the number {key}")
    try:
        return float(value)
    except OverflowError:
        raise CheckpointError(f"{path}: {key} of the rotary settings is too large") from None


def _weight_files(directory: Path) -> tuple[list[Path], dict[str, str]]:
    """The safetensors files: those that the index lists, or the only one; and which the index says a tensor is in."""
    index, stated = directory / _INDEX, dict[str, str]()
    if lies_there(index):
        try:
            listed = msgspec.json.decode(read_json(index, MAX_INDEX_BYTES), type=dict[str, Any]).get("weight_map")
            stated = msgspec.convert(listed, dict[str, str])
            names = sorted(set(stated.values()))
        except OSError as err:
            raise CheckpointError(f"{index} cannot be read: {err.strerror or err}") from None
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
            raise CheckpointError(f"{index} is malformed; get the file again") from None
    elif (directory / _WEIGHTS).is_file():
        names = [_WEIGHTS]
    elif any(directory.glob("*.bin")):
        raise CheckpointError(f"{directory} has its weights as .bin (pickle); use a safetensors version")
    else:
        raise CheckpointError(f"{directory} has neither {_WEIGHTS} nor {_INDEX}; finish the download")
    if not 1 <= len(names) <= MAX_FILES:
        raise CheckpointError(f"{index} lists {len(names)} files, of which there are 1 to {MAX_FILES}; get it again")
    for name in names:
        if Path(name).name != name or "\0" in name or len(name) > MAX_NAME_CHARACTERS:
            raise CheckpointError(f"{index} names a file outside its directory; get the file again")
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory} lacks {shown(name)}, which {_INDEX} lists; finish the download")
    return [directory / name for name in names], stated


def _open_all(files: Sequence[Path], stated: Mapping[str, str]) -> tuple[dict[Path, Any], dict[str, Path]]:
    """The open files, and which of them holds each tensor.

    Each is looked at before the next is opened: there may be many, of which each is within its own bounds.

    Raises:
        CheckpointError: a file damaged; one under two names; a tensor in two, or in another than is stated; too much.
    """
    opened, holder, header_bytes = dict[Path, Any](), dict[str, Path](), 0
    distinct_files(files)
    for path in files:
        opened[path], size = _open(path)
        header_bytes += size
        names = opened[path].keys()
        if header_bytes > MAX_HEADERS_BYTES or len(holder) + len(names) > MAX_TENSORS:
            raise CheckpointError(f"{path} and the files before it say more of their tensors than {MAX_TENSORS} need, "
                                  f"as no model's do; get the checkpoint again")  # fmt: skip
        for name in names:
            if name in holder:
                raise CheckpointError(f"{path} and {shown(holder[name].name)} both hold the tensor {shown(name)}; "
                                      f"get the checkpoint again")  # fmt: skip
            if stated.get(name, path.name) != path.name:
                raise CheckpointError(f"{path} holds the tensor {shown(name)}, which {_INDEX} says is in "
                                      f"{shown(stated[name])}; get the checkpoint again")  # fmt: skip
            holder[name] = path
    return opened, holder


def _open(path: Path) -> tuple[Any, int]:
    """The file, and how many bytes its header has."""
    try:
        with open_regular(path) as file:
            size, (header,) = os.fstat(file.fileno()).st_size, struct.unpack("<Q", file.read(8))
        if header > min(MAX_HEADER_BYTES, size - 8):  # the library takes a hundred times as much at its word
            raise ValueError
        return safe_open(path, framework="pt"), header
    except (SafetensorError, OSError, ValueError, struct.error):
        raise CheckpointError(f"{path} is damaged or incomplete; download it again") from None
