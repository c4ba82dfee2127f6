"""The halves of a split checkpoint: the contents of their directories, and loading one into a model.

A half is a directory in Meta's layout. ``params.json`` has Meta's fields and ``context_length``, ``tokenizer`` and
``split``. Beside it lie ``tokenizer.model`` and one ``consolidated.NN.pth`` per model-parallel rank with Meta's
state-dict keys (layers numbered as in the whole model). ``manifest.json`` has the size and SHA-256 of every other file.

Knows: this format, version 1.
Knows nothing about: the source of a half, which process loads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from torch import nn

from llama.added_tokens import TokenFlags
from llama.chat import MAX_STOP_IDS, NATIVE_FORMATS, TEMPLATE, ChatFormat, chat_format
from llama.checkpoint import layout
from llama.checkpoint.shards import open_pth
from llama.checkpoint.source import damage_refused
from llama.dtypes import DTYPES
from llama.errors import CheckpointError
from llama.files import read_json, shown
from llama.model_args import ModelArgs
from llama.rendering import MAX_TEMPLATE_BYTES
from llama.template_format import MAX_VARIABLE_CHARACTERS, MAX_VARIABLES, ChatTemplate, TemplateFormat
from llama.tokenizer import SMOLLM_PATTERN, Tokenizer
from llama.wire import FINGERPRINT_BYTES

FORMAT_VERSION = 1
MAX_JSON_BYTES = 4 << 20  # special tokens are most of it
MAX_SYSTEM_CHARACTERS = 64 << 10
PARAMS, TOKENIZER, MANIFEST = "params.json", "tokenizer.model", "manifest.json"
_GROUP_BYTES = 64 << 20  # bytes of a file that may stay mapped while it is copied; see `load_weights`

T = TypeVar("T")


class TokenizerParams(msgspec.Struct, omit_defaults=True):
    """``tokenizer`` in params.json: the settings that the rank file lacks. Absent fields mean Meta's rule."""

    chat_format: str
    special_tokens: dict[str, int] | None = None
    pattern: str | None = None
    default_system: str | None = None
    words: dict[str, int] = {}
    flags: dict[str, TokenFlags] = {}
    template: ChatTemplate | None = None
    stop_ids: list[int] | None = None


class SplitParams(msgspec.Struct):
    """``split`` in params.json. It is the same in both halves except ``half`` and ``model_parallel_size``."""

    half: str
    split_layer: int
    fingerprint: str
    dtype: str
    model_parallel_size: int
    format: int = FORMAT_VERSION


class HalfParams(msgspec.Struct, omit_defaults=True):
    """A half's params.json."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    multiple_of: int
    norm_eps: float
    rope_theta: float
    use_scaled_rope: bool
    rope_scaling_factor: float
    context_length: int
    tokenizer: TokenizerParams
    split: SplitParams
    ffn_dim_multiplier: float | None = None


class FileEntry(msgspec.Struct):
    """Size and SHA-256 (in hexadecimal) of one file."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct):
    """manifest.json: every other file of the directory."""

    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Half:
    """The settings in a half's params.json.

    Attributes:
        directory: the half's directory.
        half: ``edge`` or ``cloud``.
        args: hyperparameters of the whole model.
        split_layer: the edge has layers ``0 … split_layer-1``, the cloud the others.
        fingerprint: 32 bytes, equal for halves that belong together.
        dtype: dtype of the stored weights.
        model_parallel_size: number of ranks that this half is divided for.
        context_length: longest context of the model, in positions.
        special_tokens: id by text, or None for Meta's rule.
        pattern: the pre-tokeniser's pattern, or None for Meta's.
        chat_format: name of the chat format.
        default_system: system message for dialogues without one, or None.
        words: id by text of added tokens that are not special.
        flags: flags of added tokens, by text.
        template: the checkpoint's chat template, if the chat format is ``template``.
        stop_ids: ids that end a reply, beside the one that ends a turn; None for the format's usual ones.
    """

    directory: Path
    half: str
    args: ModelArgs
    split_layer: int
    fingerprint: bytes
    dtype: torch.dtype
    model_parallel_size: int
    context_length: int
    special_tokens: dict[str, int] | None
    pattern: str | None
    chat_format: str
    default_system: str | None
    words: dict[str, int]
    flags: dict[str, TokenFlags]
    template: ChatTemplate | None
    stop_ids: tuple[int, ...] | None


def shard_name(rank: int) -> str:
    """Return the file name of a rank's weights."""
    return f"consolidated.{rank:02d}.pth"


def read_half(ckpt_dir: str | Path, expect: str) -> Half:
    """Read and check a half's directory: everything except the values of the weights.

    Args:
        ckpt_dir: the directory.
        expect: ``edge`` or ``cloud``.

    Raises:
        CheckpointError: the directory is missing, empty, the other half or not a half; a file is missing or its size
            differs from the manifest; a field is missing or malformed; tensors have other shapes than the model's.
    """
    with damage_refused(Path(ckpt_dir)):
        return _read_half(Path(ckpt_dir), expect)


def _read_half(directory: Path, expect: str) -> Half:
    _check_is_a_half(directory, expect)
    params_path = directory / PARAMS
    params = _read(params_path, HalfParams)
    if params.split.format != FORMAT_VERSION:
        raise CheckpointError(
            f"{params_path}: split format {shown(params.split.format)} is not supported (this version reads "
            f"{FORMAT_VERSION}); split the original checkpoint again with this version"
        )
    if params.split.half != expect:
        other = directory.parent / expect
        hint = f"use {other}" if (other / PARAMS).is_file() else f"use the directory named {expect} beside it"
        raise CheckpointError(
            f"{directory} is the {shown(params.split.half)} half, but the {expect} half is needed; {hint}"
        )
    half = _half(directory, params)
    _check_files(directory, half.model_parallel_size)
    _check_shards(half)
    return half


def check_world_size(half: Half, world_size: int) -> None:
    """Refuse to run a half with another number of ranks than it is divided for.

    Call it before the model is built: fairscale's layers fail at sizes that do not divide, with less helpful errors.

    Raises:
        CheckpointError: names both numbers, and the command that splits again if the model can be divided that way.
    """
    if half.model_parallel_size == world_size:
        return
    anew = (
        f", or split again: python split_checkpoint.py --ckpt_dir SOURCE --output_dir OUT --split_layer "
        f"{half.split_layer} --cloud_model_parallel_size {world_size} (SOURCE: the original checkpoint)"
    )
    raise CheckpointError(
        f"{half.directory} is divided for {half.model_parallel_size} rank(s), but {world_size} run; start "
        f"{half.model_parallel_size} rank(s){anew if layout.fits(half.args, world_size) else ''}"
    )


def load_weights(
    model: nn.Module,
    half: Half,
    *,
    rank: int,
    world_size: int,
    dtype: torch.dtype,
    device: torch.device,
    keep_mapped: bool,
) -> None:
    """Load ``model``'s weights from rank ``rank``'s file. Build the model under ``parallel.unfilled_weights``.

    Weights are read through a memory map, copied one by one, and cast if ``dtype`` differs. Beside the copies, at most
    64 MiB (or the largest tensor, if larger) of the file is in memory at once.

    Args:
        model: the half's model; its parameters are replaced and need no gradient.
        half: from :func:`read_half`.
        rank: this process's model-parallel rank.
        world_size: number of model-parallel ranks.
        dtype: dtype of the weights in the model.
        device: device of the weights.
        keep_mapped: leave the token embeddings in the file, on the CPU and in the file's dtype. Only the rows that are
            looked up are read.

    Raises:
        CheckpointError: the half is divided for another number of ranks; or a tensor is missing, unexpected or has
            another shape than the model's.
    """
    check_world_size(half, world_size)
    path = half.directory / shard_name(rank)
    stored = open_pth(path)
    _check_tensors(path, stored, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    mapped = {layout.EMBEDDINGS} & stored.keys() if keep_mapped else set[str]()
    weights = {name: stored[name] for name in mapped}
    for names in _groups(stored, [name for name in stored if name not in mapped]):
        # Map the file again for each group: pages that were read count as this process's memory until unmapped.
        group = open_pth(path)
        weights |= {name: group[name].to(device=device, dtype=dtype, copy=True) for name in names}
    model.load_state_dict(weights, strict=True, assign=True)
    model.requires_grad_(False)


def tokenizer_of(half: Half) -> Tokenizer:
    """Return the half's tokenizer.

    Raises:
        TokenizerError: its tokenizer.model is damaged.
    """
    return Tokenizer(
        half.directory / TOKENIZER,
        special_tokens=half.special_tokens,
        pattern=half.pattern,
        words=half.words,
        flags=half.flags,
    )


def chat_format_of(half: Half, tokenizer: Tokenizer) -> ChatFormat:
    """Return the chat format that the model was trained on.

    Raises:
        TokenizerError: the format is unknown, or the vocabulary lacks its special tokens.
    """
    for id in half.stop_ids or ():
        tokenizer.token_bytes(id)
    if half.chat_format == TEMPLATE and half.template is not None:
        return TemplateFormat(tokenizer, half.template, half.stop_ids or ())
    return chat_format(half.chat_format, tokenizer, half.default_system, half.stop_ids)


def _check_is_a_half(directory: Path, expect: str) -> None:
    if not directory.exists():
        raise CheckpointError(f"{directory} does not exist; create it with split_checkpoint.py")
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; give the {expect} directory that split_checkpoint.py made")
    if not any(directory.iterdir()):
        raise CheckpointError(f"{directory} is empty; create it with split_checkpoint.py")
    if not (directory / PARAMS).is_file():
        if (directory / expect / PARAMS).is_file():
            raise CheckpointError(f"{directory} holds both halves; use {directory / expect}")
        raise CheckpointError(
            f"{directory} has no params.json, so it is not a half; create one with split_checkpoint.py"
        )
    if "split" not in _read(directory / PARAMS, dict[str, object]):
        raise CheckpointError(
            f"{directory} is a whole checkpoint; split it first: python split_checkpoint.py "
            f"--ckpt_dir {directory} --output_dir OUT"
        )


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(read_json(path, MAX_JSON_BYTES), type=kind)
    except OSError as err:
        raise CheckpointError(
            f"{path} cannot be read: {err.strerror or err}; copy the directory again, or split the checkpoint again"
        ) from None
    except msgspec.ValidationError as err:
        raise CheckpointError(f"{path}: {err}; split the original checkpoint again") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CheckpointError(f"{path} is not JSON; split the original checkpoint again") from None


def _half(directory: Path, params: HalfParams) -> Half:
    split, tokenizer, where = params.split, params.tokenizer, directory / PARAMS
    try:
        fingerprint = bytes.fromhex(split.fingerprint)
    except ValueError:
        fingerprint = b""
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise CheckpointError(f"{where}: the fingerprint is not 64 hexadecimal digits; split the checkpoint again")
    if split.dtype not in DTYPES:
        raise CheckpointError(f"{where}: dtype '{shown(split.dtype)}' is not one of {', '.join(DTYPES)}; split again")
    sizes = (
        *(params.dim, params.n_layers, params.n_heads, params.n_kv_heads, params.vocab_size, params.multiple_of),
        *(params.context_length, split.model_parallel_size, split.split_layer + 1),
    )
    if min(sizes) < 1 or max(sizes) > layout.LARGEST_SIZE:
        raise CheckpointError(f"{where}: a size is not 1 to {layout.LARGEST_SIZE}; split the original checkpoint again")
    _check_tokenizer(tokenizer, where)
    args = ModelArgs(
        dim=params.dim,
        n_layers=params.n_layers,
        n_heads=params.n_heads,
        n_kv_heads=params.n_kv_heads,
        vocab_size=params.vocab_size,
        multiple_of=params.multiple_of,
        ffn_dim_multiplier=params.ffn_dim_multiplier,
        norm_eps=params.norm_eps,
        rope_theta=params.rope_theta,
        use_scaled_rope=params.use_scaled_rope,
        rope_scaling_factor=params.rope_scaling_factor,
    )
    try:
        layout.check_numbers(args)
        layout.check_context_length(params.context_length, "")
        layout.check_split_layer(args, split.split_layer)
        layout.check_ranks(args, split.model_parallel_size)
    except CheckpointError as err:
        raise CheckpointError(f"{where}: {err}; split the original checkpoint again") from None
    return Half(
        directory=directory,
        half=split.half,
        args=args,
        split_layer=split.split_layer,
        fingerprint=fingerprint,
        dtype=DTYPES[split.dtype],
        model_parallel_size=split.model_parallel_size,
        context_length=params.context_length,
        special_tokens=tokenizer.special_tokens,
        pattern=tokenizer.pattern,
        chat_format=tokenizer.chat_format,
        default_system=tokenizer.default_system,
        words=tokenizer.words,
        flags=tokenizer.flags,
        template=tokenizer.template,
        stop_ids=None if tokenizer.stop_ids is None else tuple(tokenizer.stop_ids),
    )


def _check_tokenizer(tokenizer: TokenizerParams, where: Path) -> None:
    """Refuse settings that no split writes or that would cost more than any model's; raises CheckpointError."""
    formats = (*NATIVE_FORMATS, TEMPLATE)
    if tokenizer.chat_format not in formats:
        raise CheckpointError(
            f"{where}: chat format '{shown(tokenizer.chat_format)}' is not one of {', '.join(formats)}; "
            f"split the original checkpoint again"
        )
    if (tokenizer.chat_format == TEMPLATE) != (tokenizer.template is not None):
        raise CheckpointError(
            f"{where}: the chat format 'template' needs a chat template, and no other format may have one; "
            f"split the original checkpoint again"
        )
    if tokenizer.template is not None and _is_too_large(tokenizer.template):
        raise CheckpointError(
            f"{where}: the chat template or its variables are too long; split the original checkpoint again"
        )
    if len(tokenizer.stop_ids or ()) > MAX_STOP_IDS:
        raise CheckpointError(
            f"{where}: {len(tokenizer.stop_ids or ())} ids end a reply; at most {MAX_STOP_IDS} are supported; split "
            f"the original checkpoint again"
        )
    if tokenizer.pattern not in (None, SMOLLM_PATTERN):  # an unknown pattern could run forever
        raise CheckpointError(f"{where}: the tokenizer's pattern is unknown; split the original checkpoint again")
    if len(tokenizer.default_system or "") > MAX_SYSTEM_CHARACTERS:
        raise CheckpointError(f"{where}: the default system message is too long; split the original checkpoint again")


def _is_too_large(template: ChatTemplate) -> bool:
    texts = [*template.variables, *template.variables.values()]
    return (
        len(template.source) > MAX_TEMPLATE_BYTES
        or len(template.variables) > MAX_VARIABLES
        or any(len(text) > MAX_VARIABLE_CHARACTERS for text in texts)
    )


def _check_files(directory: Path, ranks: int) -> None:
    """Check that the manifest's files exist with their sizes. (Digests are not checked: that would read everything.)"""
    listed = _read(directory / MANIFEST, Manifest).files
    for name in chain((PARAMS, TOKENIZER), map(shard_name, range(ranks))):
        if name not in listed:
            raise CheckpointError(f"{directory / 'manifest.json'} does not list {name}; split the checkpoint again")
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory} lacks {name}; copy it again, or split the checkpoint again")
        size = (directory / name).stat().st_size
        if size != listed[name].bytes:
            raise CheckpointError(
                f"{directory / name} has {size} bytes instead of {listed[name].bytes}; copy it again, or split the "
                "checkpoint again"
            )


def _check_shards(half: Half) -> None:
    """Check that the files hold the tensors that params.json implies, before a model of that size is built.

    Only the names and shapes in each file are read.
    """
    args, ranks = half.args, half.model_parallel_size
    n_layers = half.split_layer if half.half == "edge" else args.n_layers - half.split_layer
    shapes = dict[str, tuple[int, ...]]()
    for rank in range(ranks):
        path = half.directory / shard_name(rank)
        stored = open_pth(path)
        layout.check_layers(n_layers, len(stored), str(half.directory / PARAMS))
        shapes = shapes or layout.tensor_shapes(args)
        expected = {
            name: layout.region_shape(layout.region(name, shape, args, rank, ranks))
            for name, shape in shapes.items()
            if layout.half_of(name, half.split_layer) == half.half
        }
        _check_tensors(path, stored, expected)


def _check_tensors(path: Path, stored: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    if found == expected:
        return
    common = [name for name in expected if name in found]
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "wrong shape": [f"{k} {found[k]} instead of {expected[k]}" for k in common if found[k] != expected[k]],
    }
    listed = "; ".join(
        f"{kind}: {', '.join(map(shown, names[:3]))}{', …' if len(names) > 3 else ''}"
        for kind, names in problems.items()
        if names
    )
    raise CheckpointError(f"{path} does not fit the model ({listed}); split the original checkpoint again")


def _groups(tensors: dict[str, torch.Tensor], names: list[str]) -> Iterator[list[str]]:
    """Yield runs of ``names`` whose tensors take about ``_GROUP_BYTES`` together."""
    group, size = list[str](), 0
    for name in names:
        if group and size + tensors[name].nbytes > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += tensors[name].nbytes
    if group:
        yield group
