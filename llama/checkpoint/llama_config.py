"""config.json of a Hugging Face directory, as transformers' ``LlamaConfig`` understands it.

Knows: the fields and their defaults, the names of Llama's architectures, and the rotary settings, in the spelling of
transformers 5, the older one, or both in one file. Sources: ``configuration_llama.py`` and ``modeling_rope_utils.py``
of transformers 5.
Knows nothing about: tensors, other files of the directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from llama.checkpoint import layout
from llama.checkpoint.shape_rules import feed_forward_fields, scaling_factor
from llama.checkpoint.signatures import refuse_misplaced
from llama.checkpoint.source import unreadable
from llama.errors import CheckpointError
from llama.files import read_json, shown
from llama.model_args import HIGH_FREQ_FACTOR, LOW_FREQ_FACTOR, OLD_CONTEXT_LEN, ModelArgs

MAX_CONFIG_BYTES = 1 << 20
_KINDS_SHOWN = 8
_CLASSES = {"LlamaForCausalLM", "LlamaModel", "LLaMAForCausalLM"}  # LLaMAForCausalLM: conversions of early 2023
_SILU = ("silu", "swish")
_DEFAULT_THETA = 10000.0
_SCALING = {
    "low_freq_factor": LOW_FREQ_FACTOR,
    "high_freq_factor": HIGH_FREQ_FACTOR,
    "original_max_position_embeddings": OLD_CONTEXT_LEN,
}

T = TypeVar("T")


class _Architecture(msgspec.Struct):
    """The fields that name the architecture. They are read first: other architectures' fields have other types."""

    model_type: Any = None
    architectures: Any = None
    configuration_files: Any = None


class LlamaConfig(msgspec.Struct):
    """Fields of config.json. Defaults are transformers'; null means the default where transformers treats it so."""

    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    vocab_size: int = 32000
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    attention_bias: bool | None = False
    mlp_bias: bool | None = False
    tie_word_embeddings: bool | None = False
    rope_theta: float | UnsetType | None = UNSET
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float | None = None
    original_max_position_embeddings: int | float | UnsetType | None = UNSET
    quantization_config: dict[str, Any] | None = None
    compression_config: dict[str, Any] | None = None
    transformers_weights: str | None = None
    is_causal: Any = None
    sliding_window: Any = None
    attention_chunk_size: Any = None
    layer_types: Any = None

    @property
    def rope(self) -> dict[str, Any]:
        """The effective rotary settings, under the names of ``rope_parameters``.

        A non-empty ``rope_scaling`` replaces ``rope_parameters`` entirely. A top-level ``rope_theta`` is used only if
        these have none. A top-level ``original_max_position_embeddings`` always overrides theirs.
        """
        settings: dict[str, Any] = {"rope_theta": _DEFAULT_THETA if self.rope_theta is UNSET else self.rope_theta}
        if self.partial_rotary_factor is not None:
            settings["partial_rotary_factor"] = self.partial_rotary_factor
        settings |= self.rope_scaling or self.rope_parameters or {}
        settings.setdefault("rope_type", settings.get("type", "default"))
        settings.setdefault("original_max_position_embeddings", self.max_position_embeddings)
        if self.original_max_position_embeddings is not UNSET:
            settings["original_max_position_embeddings"] = self.original_max_position_embeddings
        return settings


def read_config(path: Path) -> LlamaConfig:
    """Read the fields of a config.json.

    Raises:
        CheckpointError: the file is missing or malformed, or the model is not supported.
    """
    refuse_misplaced(path)
    try:
        data = read_json(path, MAX_CONFIG_BYTES)
    except OSError as err:
        raise unreadable(path, err) from None
    _check_architecture(_decode(data, _Architecture, path), path)
    config = _decode(data, LlamaConfig, path)
    if quantised := config.quantization_config or config.compression_config:
        method = shown(quantised.get("quant_method", "no quant_method"))
        raise CheckpointError(
            f"{path} describes a quantised model ({method}), which is not supported; use the "
            f"original release in bfloat16 or float16"
        )
    if config.attention_bias or config.mlp_bias:
        name = "attention_bias" if config.attention_bias else "mlp_bias"
        raise CheckpointError(
            f"{path} asks for biases ({name}), which is not supported; use a Llama model without biases"
        )
    _check_attention(config, path)
    if config.hidden_act not in _SILU:
        raise CheckpointError(
            f"{path} asks for the activation '{shown(config.hidden_act)}'; only silu is supported; use another model"
        )
    return config


def _check_attention(config: LlamaConfig, path: Path) -> None:
    """Refuse attention of another kind than Llama's. transformers honours these fields, which Llama lacks."""
    if config.is_causal is False:
        raise CheckpointError(
            f"{path} asks for attention to later positions (is_causal is false), which is not "
            f"supported; use a model that generates text"
        )
    if isinstance(config.layer_types, list) and set(map(str, config.layer_types)) == {"full_attention"}:
        return
    for name in ("sliding_window", "attention_chunk_size"):
        size = getattr(config, name)
        if isinstance(size, int | float) and size < config.max_position_embeddings:
            raise CheckpointError(
                f"{path} asks for attention to only a part of the context ({name} is {size:g}), "
                f"which is not supported; remove the field if the model attends to all of it"
            )


def _decode(data: bytes, kind: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as err:
        raise CheckpointError(f"{path}: {err}; correct the field, or use the file as released") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise CheckpointError(f"{path} is not JSON ({err}); correct it or get the file again") from None


def _check_architecture(stated: _Architecture, path: Path) -> None:
    """Refuse other architectures, by the names in the configuration. ``model_type`` decides, as in transformers."""
    classes = stated.architectures if isinstance(stated.architectures, list) else []
    if stated.configuration_files is not None:
        raise CheckpointError(
            f"{path} names other files to use instead of it (configuration_files), which is not "
            f"supported; save the right one as config.json"
        )
    if stated.model_type in (None, "") and not classes:
        raise CheckpointError(
            f'{path} has neither model_type nor architectures; if it is a Llama model, add "model_type": "llama"'
        )
    llama = any(name in _CLASSES for name in classes if isinstance(name, str))
    if stated.model_type == "llama" and (llama or not classes or not _is_llama_of_another_task(classes)):
        return
    if stated.model_type in (None, "") and llama:
        return
    found = shown(", ".join(map(shown, [*classes[:_KINDS_SHOWN], *filter(None, [stated.model_type])])))
    raise CheckpointError(
        f"{path} describes another architecture ({found}) than Llama (LlamaForCausalLM); use a Llama text model"
    )


def _is_llama_of_another_task(classes: list[Any]) -> bool:
    """Return whether a class is Llama with another head, such as ``LlamaForSequenceClassification``."""
    return any(isinstance(name, str) and name.startswith("LlamaFor") for name in classes)


def model_args(config: LlamaConfig, path: Path, asked_factor: float | None) -> ModelArgs:
    """Return the hyperparameters in Meta's terms.

    Args:
        config: the fields of ``path``.
        path: the file, for errors.
        asked_factor: overrides the factor of the scaled rotary embedding.

    Raises:
        CheckpointError: the sizes contradict each other, or a setting is not supported.
    """
    dim, n_heads, n_kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    _check_sizes(config, n_kv_heads, path)
    rope = config.rope
    scaled = _scaled_rope(rope, path)
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
        rope_theta=_number(rope, "rope_theta", path),
        use_scaled_rope=scaled,
        rope_scaling_factor=scaling_factor(
            scaled, _number(rope, "factor", path) if scaled else None, asked_factor, dim, str(path)
        ),
    )
    layout.check_numbers(args, str(path))
    return args


def _check_sizes(config: LlamaConfig, n_kv_heads: int, path: Path) -> None:
    dim, n_heads = config.hidden_size, config.num_attention_heads
    sizes = (dim, n_heads, n_kv_heads, config.intermediate_size, config.num_hidden_layers, config.vocab_size)
    if min(sizes) < 1 or max(sizes) > layout.LARGEST_SIZE:
        raise CheckpointError(
            f"{path}: a size or a number of heads or layers is not 1 to {layout.LARGEST_SIZE}; use the file as released"
        )
    if dim % n_heads or dim // n_heads % 2 or n_heads % n_kv_heads:
        raise CheckpointError(
            f"{path}: hidden_size {dim}, num_attention_heads {n_heads} and num_key_value_heads "
            f"{n_kv_heads} do not fit together; use the file as released"
        )
    if config.head_dim not in (None, dim // n_heads):
        raise CheckpointError(
            f"{path}: head_dim {shown(config.head_dim)} is not hidden_size / num_attention_heads "
            f"({dim // n_heads}), which is not supported; use another Llama model"
        )


def _scaled_rope(rope: dict[str, Any], path: Path) -> bool:
    """Return whether the rotary embedding is scaled as Llama 3.1's; refuse any other scaling."""
    nested = next((key for key, value in rope.items() if isinstance(value, dict)), None)
    if nested is not None:
        raise CheckpointError(
            f"{path}: the rotary settings differ by kind of layer ({shown(nested)}), which is "
            f"not supported; use a Llama model, with the same settings in each layer"
        )
    if rope.get("partial_rotary_factor") not in (None, 1.0):
        raise CheckpointError(
            f"{path} rotates only a part of each head (partial_rotary_factor), which is not supported; "
            f"use another Llama model"
        )
    if rope["rope_type"] == "default" or (rope["rope_type"] == "linear" and rope.get("factor") == 1):
        return False
    if rope["rope_type"] != "llama3":
        raise CheckpointError(
            f"{path} uses '{shown(rope['rope_type'])}' rotary scaling; only default and llama3 are supported"
        )
    for key, value in _SCALING.items():
        if (found := _number(rope, key, path)) != value:
            raise CheckpointError(
                f"{path}: {key} of the rotary scaling must be {value:g} (got {found:g}); use another Llama model"
            )
    return True


def _number(rope: dict[str, Any], key: str, path: Path) -> float:
    value = rope.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{path}: the rotary settings lack the number {key}; use the file as released")
    try:
        return float(value)
    except OverflowError:
        raise CheckpointError(f"{path}: {key} of the rotary settings is too large; use the file as released") from None
