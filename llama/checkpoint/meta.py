"""Meta's release directories: params.json, tokenizer.model, consolidated.00.pth ….

Knows: the fields of params.json, the values that released files omit (rotary base, scaling factor, context length),
and the peculiarities of single releases.
Knows nothing about: Hugging Face, GGUF, halves.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from llama.checkpoint import layout, vocabulary
from llama.checkpoint.shape_rules import scaling_factor
from llama.checkpoint.shards import ShardedTensors, open_pth
from llama.checkpoint.signatures import refuse_misplaced, unfinished
from llama.checkpoint.source import check_vocabulary, distinct_files, prevailing_dtype, unreadable
from llama.errors import CheckpointError, TokenizerError
from llama.files import lies_there, read_json, shown
from llama.model_args import ModelArgs

_LLAMA_2_THETA, _LLAMA_3_THETA = 10000.0, 500000.0
_LLAMA_2_CONTEXT, _LLAMA_3_CONTEXT, _CODE_LLAMA_CONTEXT, _SCALED_CONTEXT = 4096, 8192, 16384, 131072

MAX_PARAMS_BYTES = 1 << 20
MAX_SHARDS = 64  # Llama 3.1 405B has 16

_FIELDS_SHOWN = 8
SHARD_NAME = re.compile(r"consolidated(?:\.(\d+))?\.pth")
_QUANTISED = ("quantization_args", "lora_args")


class _Params(msgspec.Struct):
    """Fields of params.json. The fields without a default are in every release."""

    dim: int
    n_layers: int
    n_heads: int
    multiple_of: int
    norm_eps: float
    n_kv_heads: int | None = None
    vocab_size: int = -1
    ffn_dim_multiplier: float | None = None
    rope_theta: float = _LLAMA_2_THETA
    use_scaled_rope: bool = False
    rope_scaling_factor: float | None = None
    max_seq_len: int | None = None
    max_batch_size: int | None = None


class MetaSource:
    """A release directory of Meta's, at any model-parallel size. See ``source.Source`` for the attributes.

    Args:
        directory: holds params.json, tokenizer.model and the shards.
        rope_scaling_factor: overrides the factor of the scaled rotary embedding.
        chat_format: overrides the chat template; see ``templates``.

    Raises:
        CheckpointError: a part is missing, damaged, contradictory or not supported.
        TokenizerError: its tokenizer is not supported.
    """

    def __init__(
        self, directory: Path, rope_scaling_factor: float | None = None, chat_format: str | None = None
    ) -> None:
        params = read_params(directory / "params.json")
        self.vocabulary = _read_vocabulary(directory, chat_format)
        files = shard_files(directory)
        vocab_size = self.vocabulary.n_words if params.vocab_size == -1 else params.vocab_size
        args = ModelArgs(
            dim=params.dim,
            n_layers=params.n_layers,
            n_heads=params.n_heads,
            n_kv_heads=params.n_heads if params.n_kv_heads is None else params.n_kv_heads,
            vocab_size=vocab_size,
            multiple_of=params.multiple_of,
            ffn_dim_multiplier=params.ffn_dim_multiplier,
            norm_eps=params.norm_eps,
            rope_theta=params.rope_theta,
            use_scaled_rope=params.use_scaled_rope,
            rope_scaling_factor=scaling_factor(
                params.use_scaled_rope, params.rope_scaling_factor, rope_scaling_factor, params.dim, str(directory)
            ),
        )
        layout.check_numbers(args, str(directory / "params.json"))
        shards = _open_shards(directory, args, files)
        self.tied = not any(layout.OUTPUT in shard for shard in shards)
        self.args = _without_doubled_heads(args, files, shards)
        self._tensors = _sharded(self.args, files, shards, tied=self.tied)
        check_vocabulary(self.vocabulary, vocab_size, str(directory))
        self.context_length = _context_length(params)
        self.dtype = prevailing_dtype(
            ((k, t.numel(), t.dtype) for shard in shards for k, t in shard.items() if not layout.is_rotary_table(k)),
            str(directory),
        )
        self.description = f"Meta directory, {len(files)} shard(s)"

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """Yield slabs of the tensor ``name`` in the files' dtype; see ``source.Source``."""
        return self._tensors.rows(name)


def read_params(path: Path) -> _Params:
    """Read the fields of a params.json, also nested under ``model``. Name unknown fields on stderr and ignore them.

    Raises:
        CheckpointError: the file is missing or malformed, lacks a needed field, or the model is not supported.
    """
    refuse_misplaced(path)
    try:
        fields: Any = msgspec.json.decode(read_json(path, MAX_PARAMS_BYTES))
    except OSError as err:
        raise unreadable(path, err) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise CheckpointError(f"{path} is not JSON ({err}); correct it or get the file again") from None
    if isinstance(fields, dict) and isinstance(fields.get("model"), dict):
        fields = fields["model"]
    if isinstance(fields, dict):
        _refuse_other_kinds(fields, path)
        unknown = sorted(fields.keys() - set(_Params.__struct_fields__))
        if unknown:
            names = shown(", ".join(map(shown, unknown[:_FIELDS_SHOWN])))
            print(f"warning: {path}: ignored unknown fields: {names}", file=sys.stderr)
    try:
        params = msgspec.convert(fields, _Params)
    except msgspec.ValidationError as err:
        raise CheckpointError(f"{path}: {err}; use the file as released") from None
    sizes = (params.dim, params.n_layers, params.n_heads, params.multiple_of, params.n_kv_heads or 1)
    heads_fit = (
        min(sizes) > 0
        and max(sizes) <= layout.LARGEST_SIZE
        and params.dim % params.n_heads == 0
        and params.n_heads % (params.n_kv_heads or 1) == 0
    )
    if not heads_fit or params.dim // params.n_heads % 2:
        raise CheckpointError(
            f"{path}: dim, n_layers, n_heads, n_kv_heads and multiple_of do not fit together; use the file as released"
        )
    return params


def _refuse_other_kinds(fields: dict[str, Any], path: Path) -> None:
    if any(fields.get(key) for key in _QUANTISED):
        raise CheckpointError(f"{path} describes a quantised checkpoint, which is not supported; use the bf16 release")
    if any(key.startswith("vision_") and fields[key] not in (None, -1) for key in fields):
        raise CheckpointError(f"{path} describes a vision model, which is not supported; use a text model")
    if fields.get("moe_args"):
        raise CheckpointError(f"{path} describes a mixture of experts, which is not supported; use a dense model")
    if "split" in fields:
        raise CheckpointError(f"{path.parent} is already one half of a split checkpoint; give the original checkpoint")


def shard_files(directory: Path) -> list[Path]:
    """Return ``consolidated.00.pth`` … in order (or a lone ``consolidated.pth``).

    Raises:
        CheckpointError: no shard exists, one between others is missing, or they belong to an fp8 release.
    """
    found = {path: match for path in sorted(directory.iterdir()) if (match := SHARD_NAME.fullmatch(path.name))}
    if not found:
        raise _without_shards(directory)
    if any(directory.glob("fp8_scales_*.pt")):
        raise CheckpointError(f"{directory} is an fp8 release, which is not supported; use the bf16 release")
    by_number = {int(match[1] or 0): path for path, match in found.items()}
    if len(by_number) < len(found):
        raise CheckpointError(
            f"{directory} has two files for the same shard: {', '.join(p.name for p in found)}; remove one"
        )
    missing = next(number for number in range(len(by_number) + 1) if number not in by_number)
    if missing < len(by_number):
        name = f"consolidated.{missing:02d}.pth"
        if half := unfinished(directory, name):
            raise CheckpointError(f"{directory} has {name} only as an unfinished download ({half}); finish it")
        raise CheckpointError(f"{directory} lacks {name}; finish the download")
    if len(by_number) > MAX_SHARDS:
        raise CheckpointError(
            f"{directory} has {len(by_number)} shards; at most {MAX_SHARDS} are supported; use the files of one release"
        )
    return [by_number[number] for number in sorted(by_number)]


def _without_shards(directory: Path) -> CheckpointError:
    """Return the error for a directory without shards. It names the files found instead and what to do."""
    names = sorted(path.name for path in directory.iterdir())
    half = next((name for name in names if name.startswith("consolidated.") and ".pth" in name), None)
    if half:
        return CheckpointError(
            f"{directory} has no consolidated.*.pth but {shown(half)}, an unfinished download or a "
            f"renamed copy; finish it, or rename it"
        )
    if pickles := [name for name in names if name.endswith((".pth", ".pt"))]:
        return CheckpointError(
            f"{directory} has no consolidated.*.pth but {shown(pickles[0])}; if that is the "
            f"release's only shard, rename it to consolidated.00.pth"
        )
    others = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if others:
        return CheckpointError(
            f"{directory} has Meta's params.json, but {shown(others[0])} instead of "
            f"consolidated.*.pth; get the config.json that belongs to it, or Meta's files"
        )
    return CheckpointError(f"{directory} has no consolidated.*.pth; finish the download")


def _read_vocabulary(directory: Path, chat_format: str | None) -> vocabulary.Vocabulary:
    path = directory / "tokenizer.model"
    refuse_misplaced(path)
    if not lies_there(path):
        raise TokenizerError(
            f"{directory} lacks tokenizer.model, which Meta's releases have beside params.json or "
            f"one level up; copy it into this directory"
        )
    return vocabulary.from_meta(path, chat_format)


def _open_shards(directory: Path, args: ModelArgs, files: Sequence[Path]) -> list[dict[str, torch.Tensor]]:
    """Return each shard's tensors. Each shard is checked before the next is opened, since there may be many."""
    shards = list[dict[str, torch.Tensor]]()
    expected = set[str]()
    distinct_files(files)
    for file in files:
        shard = open_pth(file)
        if not shards:  # in a release every shard has every name
            layout.check_layers(args.n_layers, len(shard), str(directory / "params.json"))
            expected |= layout.tensor_shapes(args).keys()
        _check_names(file, shard, expected)
        if not shards:
            _check_shard_count(directory, args, shard)
        shards.append(shard)
    return shards


def _check_names(file: Path, shard: dict[str, torch.Tensor], expected: set[str]) -> None:
    """Refuse tensors that a Llama text model does not have. (Missing ones are found later.)"""
    directory, unknown = file.parent, sorted(k for k in shard.keys() - expected if not layout.is_rotary_table(k))
    if any(name.startswith(("vision_model.", "text_model.")) for name in unknown):
        raise CheckpointError(f"{directory} holds a vision model, which is not supported; use a text model")
    if any(name.endswith((".scales", ".zeros")) or "lora" in name or "adaptor" in name for name in unknown):
        raise CheckpointError(f"{directory} holds a quantised model, which is not supported; use the bf16 release")
    if unknown:
        raise CheckpointError(
            f"{file} holds tensors that a model of these hyperparameters does not have: {shown(unknown[0])}"
            f"{', …' if len(unknown) > 1 else ''} ({len(unknown)} in all); use the files of one release"
        )


def _check_shard_count(directory: Path, args: ModelArgs, shard: dict[str, torch.Tensor]) -> None:
    """Check the number of shards by the query projection, which is always divided by whole heads."""
    held = shard.get("layers.0.attention.wq.weight")
    found = len(shard_files(directory))
    if held is not None and held.dim() == 2 and 0 < len(held) != args.dim // found and args.dim % len(held) == 0:
        raise CheckpointError(
            f"{directory} has {found} shard(s) of a checkpoint of {args.dim // len(held)}; "
            "finish the download, or use shards of one release only"
        )


def _sharded(
    args: ModelArgs, files: Sequence[Path], shards: Sequence[dict[str, torch.Tensor]], *, tied: bool
) -> ShardedTensors:
    shapes = layout.tensor_shapes(args)
    if tied:
        del shapes[layout.OUTPUT]
    ranks, embeddings = len(files), shards[0].get(layout.EMBEDDINGS)
    try:
        layout.check_ranks(args, ranks)
    except CheckpointError as err:
        raise CheckpointError(f"{files[0].parent} has {ranks} shards: {err}") from None
    along = 1 if ranks > 1 and embeddings is not None and len(embeddings) == args.vocab_size else 0
    return ShardedTensors(
        files,
        shards,
        {
            name: [layout.region(name, shape, args, rank, ranks, embeddings_along=along) for rank in range(ranks)]
            for name, shape in shapes.items()
        },
    )


def _without_doubled_heads(
    args: ModelArgs, files: Sequence[Path], shards: Sequence[dict[str, torch.Tensor]]
) -> ModelArgs:
    """Undo the doubled key/value heads of 405B's 16-way release, which give each of the 16 shards a head.

    Its params.json counts 16 heads, and each pair is equal in every layer; keep one of each pair.
    """
    if args.kv_heads != len(files) or args.kv_heads % 2:
        return args
    for layer in range(args.n_layers):
        for weight in ("wk", "wv"):
            name = f"layers.{layer}.attention.{weight}.weight"
            heads = [shard.get(name) for shard in shards]
            pairs = zip(heads[::2], heads[1::2], strict=True)
            if not all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs):
                return args
    return dataclasses.replace(args, n_kv_heads=args.kv_heads // 2)


def _context_length(params: _Params) -> int:
    """Return the release's context length, in positions; params.json does not state it."""
    if params.use_scaled_rope:
        return _SCALED_CONTEXT
    by_theta = {_LLAMA_2_THETA: _LLAMA_2_CONTEXT, _LLAMA_3_THETA: _LLAMA_3_CONTEXT}
    return by_theta.get(params.rope_theta, _CODE_LLAMA_CONTEXT)
