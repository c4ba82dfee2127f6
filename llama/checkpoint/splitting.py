"""Split an open checkpoint: write both halves, verify them, and only then move them into place.

Knows: the order of the work, the contents of a half's directory, and the definition of the fingerprint.
Knows nothing about: the origin of the tensors (``source``), file formats (``writing``), the command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from llama import placing
from llama.checkpoint import layout
from llama.checkpoint.halves import (
    MANIFEST,
    PARAMS,
    TOKENIZER,
    FileEntry,
    HalfParams,
    Manifest,
    SplitParams,
    TokenizerParams,
    shard_name,
)
from llama.checkpoint.shards import SLAB_BYTES, ShardedTensors, open_pth
from llama.checkpoint.source import Source
from llama.checkpoint.vocabulary import Vocabulary
from llama.checkpoint.writing import PthFile, raw_bytes
from llama.dtypes import DTYPES
from llama.errors import CheckpointError
from llama.files import not_a_path
from llama.model_args import ModelArgs

Progress = Callable[[str, int, int], None]
"""Called repeatedly with (name of the phase, bytes done, bytes in all)."""

_OUTPUT = placing.OutputSpec("--output_dir", CheckpointError, frozenset(layout.HALVES))
_HEADER_BYTES = 1 << 10  # upper bound per tensor in a file
_BLOCK_BYTES = 4 << 10  # a file occupies whole blocks


@dataclass(frozen=True)
class TensorDigest:
    """Shape, dtype and SHA-256 of a tensor. Two tensors with equal digests are the same."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    sha256: bytes


@dataclass(frozen=True)
class _Plan:
    """All decisions made before the first byte is written.

    Attributes:
        ranks: number of files of each half.
        names: names of the tensors of each half.
        shapes: unsharded shape of every tensor.
    """

    source: Source
    split_layer: int
    dtype: torch.dtype
    ranks: dict[str, int]
    names: dict[str, list[str]]
    shapes: dict[str, tuple[int, ...]]

    @property
    def bytes(self) -> int:
        """Size of the tensors that both halves hold, without replicas."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values()) * self.dtype.itemsize

    def regions(self, half: str) -> dict[str, list[layout.Region]]:
        """Return the region that each rank of a half holds of each of its tensors."""
        ranks = self.ranks[half]
        return {
            name: [layout.region(name, self.shapes[name], self.source.args, rank, ranks) for rank in range(ranks)]
            for name in self.names[half]
        }


def split(
    source: Source,
    output_dir: Path,
    *,
    split_layer: int = 1,
    cloud_model_parallel_size: int = 1,
    dtype: torch.dtype | None = None,
    progress: Progress = lambda *_: None,
) -> bytes:
    """Write ``output_dir/edge`` and ``output_dir/cloud``; return their fingerprint.

    The halves are written to a partial directory and renamed at the end (see ``llama.placing``), so they are either
    absent or whole. If the work ends early, the partial directory is deleted.

    Args:
        source: the checkpoint.
        output_dir: absent or empty directory; a link is followed.
        split_layer: number of layers of the edge half.
        cloud_model_parallel_size: number of ranks (and files) of the cloud half.
        dtype: dtype of the halves, or None for ``source.dtype``.
        progress: called with the progress of the work.

    Raises:
        CheckpointError: an argument does not fit the model, ``output_dir`` is in use, the disk has too little space, or
            the written data differ from the source.
    """
    plan = _plan(source, split_layer, cloud_model_parallel_size, dtype or source.dtype)
    _check_name(output_dir)
    try:
        with placing.appearing(output_dir, _OUTPUT) as partial:
            _check_room(partial, output_dir, plan)
            digests = _write_tensors(plan, partial, progress)
            print_of_both = fingerprint(source.args, source.vocabulary, split_layer, digests)
            for half in layout.HALVES:
                _write_params(plan, half, partial / half, print_of_both)
            _verify(plan, partial, digests, progress)
            _write_manifests(partial, progress)
    except OSError as err:
        raise CheckpointError(
            f"writing {output_dir} failed: {err.strerror or err}; no files were left behind"
        ) from None
    return print_of_both


def check_output(output_dir: Path, ckpt_dir: Path) -> None:
    """Check that halves can be written to ``output_dir``. Call it first: opening a checkpoint may take long.

    Raises:
        CheckpointError: ``output_dir`` is in use or cannot be written, or it holds the checkpoint.
    """
    if why := not_a_path(output_dir):
        raise CheckpointError(f"--output_dir {output_dir}: {why}")
    with contextlib.suppress(OSError):  # opening the checkpoint reports it
        output, source = Path(os.path.realpath(output_dir)), Path(os.path.realpath(ckpt_dir, strict=True))
        if output == source or output in source.parents:
            raise CheckpointError(f"{output_dir} holds the checkpoint itself; choose another --output_dir")
    _check_name(output_dir)
    placing.check(output_dir, _OUTPUT)


def _check_name(output_dir: Path) -> None:
    with contextlib.suppress(OSError):  # llama.placing reports it
        try:
            os.path.realpath(output_dir).encode()
        except UnicodeEncodeError:
            raise CheckpointError(
                f"{output_dir} cannot be used for --output_dir: its path or this locale is not "
                f"UTF-8, and torch cannot open such a file; choose another directory, or set LC_ALL=C.UTF-8"
            ) from None


def fingerprint(
    args: ModelArgs, vocabulary: Vocabulary, split_layer: int, digests: Mapping[str, TensorDigest]
) -> bytes:
    """Return 32 bytes that two halves share exactly if they come from the same split of the same checkpoint.

    SHA-256 over lines of UTF-8, each ended by a newline:

    1. ``split-llama fingerprint 1``;
    2. a JSON object with sorted keys and no spaces: ``dim``, ``hidden_dim``, ``n_heads``, ``n_kv_heads``, ``n_layers``,
       ``norm_eps``, ``rope_scaling_factor`` (null without scaling), ``rope_theta``, ``split_layer``, ``vocab_size``;
    3. another: ``model`` (SHA-256 of tokenizer.model, in hexadecimal), ``pattern``, ``special_tokens``; if not empty,
       ``words`` (id by text) and ``flags`` (those that are set, by text);
    4. for each tensor, sorted by name: name, dtype, shape as ``AxB`` and the SHA-256 of its bytes, separated by spaces.

    Each tensor is hashed as stored (after any change of dtype), unsharded, row-major and little-endian, with each
    key/value head once. A tied output head is hashed like a separate one. So neither the number of ranks nor the
    source's file format changes the fingerprint. It detects mistakes; it does not authenticate.
    """
    numbers = {
        "dim": args.dim,
        "hidden_dim": args.hidden_dim,
        "n_heads": args.n_heads,
        "n_kv_heads": args.kv_heads,
        "n_layers": args.n_layers,
        "norm_eps": float(args.norm_eps),
        "rope_scaling_factor": float(args.rope_scaling_factor) if args.use_scaled_rope else None,
        "rope_theta": float(args.rope_theta),
        "split_layer": split_layer,
        "vocab_size": args.vocab_size,
    }
    tokenizer: dict[str, object] = {
        "model": hashlib.sha256(vocabulary.model).hexdigest(),
        "pattern": vocabulary.pattern,
        "special_tokens": vocabulary.special_tokens,
    }
    tokenizer |= {"words": vocabulary.words} if vocabulary.words else {}
    tokenizer |= {"flags": vocabulary.flags} if vocabulary.flags else {}
    lines = [b"split-llama fingerprint 1"]
    lines += [msgspec.json.encode(part, order="sorted") for part in (numbers, tokenizer)]
    for name, digest in sorted(digests.items()):
        shape = "x".join(map(str, digest.shape))
        lines.append(f"{name} {dtype_name(digest.dtype)} {shape} {digest.sha256.hex()}".encode())
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).digest()


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype: ``float32``, ``bfloat16`` or ``float16``."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def _plan(source: Source, split_layer: int, ranks: int, dtype: torch.dtype) -> _Plan:
    layout.check_numbers(source.args)
    layout.check_split_layer(source.args, split_layer)
    layout.check_ranks(source.args, ranks)
    shapes = layout.tensor_shapes(source.args)
    names = {half: [name for name in shapes if layout.half_of(name, split_layer) == half] for half in layout.HALVES}
    return _Plan(source, split_layer, dtype, {"edge": 1, "cloud": ranks}, names, shapes)


def _check_room(partial: Path, output_dir: Path, plan: _Plan) -> None:
    files = [
        sum(torch.Size(layout.region_shape(regions[rank])).numel() for regions in held.values()) * plan.dtype.itemsize
        for held, ranks in ((plan.regions(half), plan.ranks[half]) for half in layout.HALVES)
        for rank in range(ranks)
    ]
    tokenizers = len(layout.HALVES) * len(plan.source.vocabulary.model)
    others = len(layout.HALVES) * 4  # per half: a directory, params.json, a tokenizer and a manifest
    headers = _HEADER_BYTES * len(plan.shapes)
    words = len(msgspec.json.encode([plan.source.vocabulary.special_tokens, plan.source.vocabulary.template]))
    blocks = _BLOCK_BYTES * (len(files) + others)
    placing.check_room(
        partial,
        output_dir,
        _OUTPUT,
        needed=sum(files) + len(files) * headers + tokenizers + len(layout.HALVES) * words + blocks,
        largest=max(files) + headers,
        files=len(files) + others,
    )


def _write_tensors(plan: _Plan, partial: Path, progress: Progress) -> dict[str, TensorDigest]:
    """Read every tensor of the source once and write it into its half; return each tensor's digest."""
    digests, done = dict[str, TensorDigest](), 0
    for half in layout.HALVES:
        (partial / half).mkdir()
        regions = plan.regions(half)
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(
                    PthFile(
                        partial / half / shard_name(rank),
                        {name: layout.region_shape(held[rank]) for name, held in regions.items()},
                        plan.dtype,
                    )
                )
                for rank in range(plan.ranks[half])
            ]
            for name in plan.names[half]:
                tied = plan.source.tied and name == layout.OUTPUT
                digest, row = hashlib.sha256(), 0
                for read in plan.source.rows(layout.EMBEDDINGS if tied else name):
                    slab = _cast(read, plan.dtype, name)
                    digest.update(raw_bytes(slab))
                    for file, region in zip(files, regions[name], strict=True):
                        file.append(name, _part(slab, row, region))
                    row += len(slab)
                    done += slab.nbytes
                    progress("writing", done, plan.bytes)
                digests[name] = TensorDigest(plan.shapes[name], plan.dtype, digest.digest())
            for file in files:
                file.finish()
    return digests


def _cast(slab: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    cast = slab.to(dtype)
    if dtype == torch.float16 and slab.dtype != dtype and not torch.equal(cast.isfinite(), slab.isfinite()):
        raise CheckpointError(f"{name} has values beyond the range of float16; use --dtype bfloat16 or float32")
    return cast


def _part(slab: torch.Tensor, row: int, region: layout.Region) -> torch.Tensor:
    """Return the part of ``slab`` that lies in ``region``; the slab's first row is row ``row`` of the tensor."""
    rows, *columns = region
    return slab[(slice(max(0, rows.start - row), max(0, rows.stop - row)), *columns)]


def _write_params(plan: _Plan, half: str, directory: Path, print_of_both: bytes) -> None:
    args, vocabulary = plan.source.args, plan.source.vocabulary
    params = HalfParams(
        dim=args.dim,
        n_layers=args.n_layers,
        n_heads=args.n_heads,
        n_kv_heads=args.kv_heads,
        vocab_size=args.vocab_size,
        multiple_of=args.multiple_of,
        ffn_dim_multiplier=args.ffn_dim_multiplier,
        norm_eps=args.norm_eps,
        rope_theta=args.rope_theta,
        use_scaled_rope=args.use_scaled_rope,
        rope_scaling_factor=args.rope_scaling_factor,
        context_length=plan.source.context_length,
        tokenizer=TokenizerParams(
            chat_format=vocabulary.chat_format,
            special_tokens=vocabulary.special_tokens,
            pattern=vocabulary.pattern,
            default_system=vocabulary.default_system,
            words=vocabulary.words,
            flags=vocabulary.flags,
            template=vocabulary.template,
            stop_ids=None if vocabulary.stop_ids is None else list(vocabulary.stop_ids),
        ),
        split=SplitParams(
            half=half,
            split_layer=plan.split_layer,
            fingerprint=print_of_both.hex(),
            dtype=dtype_name(plan.dtype),
            model_parallel_size=plan.ranks[half],
        ),
    )
    encoded = msgspec.json.format(msgspec.json.encode(params), indent=1)
    (directory / PARAMS).write_bytes(encoded + b"\n")
    (directory / TOKENIZER).write_bytes(vocabulary.model)


def _verify(plan: _Plan, partial: Path, digests: Mapping[str, TensorDigest], progress: Progress) -> None:
    """Read the halves back and check that every tensor of the source is in exactly one of them, whole and unchanged.

    (With tied embeddings, the edge has the table and the cloud has a copy of it as its output head.)
    """
    seen, done = set[str](), 0
    for half in layout.HALVES:
        files = [partial / half / shard_name(rank) for rank in range(plan.ranks[half])]
        shards = [open_pth(file) for file in files]
        held = {name for shard in shards for name in shard}
        if held & seen or held != set(plan.names[half]):
            raise CheckpointError(f"verification failed: the {half} half does not hold its tensors; no files were kept")
        seen |= held
        tensors = ShardedTensors(files, shards, plan.regions(half))
        for name in plan.names[half]:
            digest = hashlib.sha256()
            for slab in tensors.rows(name):
                digest.update(raw_bytes(slab))
                done += slab.nbytes
                progress("verifying", done, plan.bytes)
            written = TensorDigest(plan.shapes[name], shards[0][name].dtype, digest.digest())
            if written != digests[name]:
                raise CheckpointError(f"verification failed: {name} reads back differently; the disk may be failing")
    if seen != digests.keys():
        raise CheckpointError("verification failed: not every tensor of the source was written; split again")


def _write_manifests(partial: Path, progress: Progress) -> None:
    paths = {half: sorted((partial / half).iterdir()) for half in layout.HALVES}
    total, done = sum(path.stat().st_size for half in layout.HALVES for path in paths[half]), 0
    for half in layout.HALVES:
        entries = {}
        for path in paths[half]:
            digest, size = hashlib.sha256(), 0
            with path.open("rb") as file:
                while chunk := file.read(SLAB_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    progress("checksums", done + size, total)
            done += size
            entries[path.name] = FileEntry(bytes=size, sha256=digest.hexdigest())
        encoded = msgspec.json.format(msgspec.json.encode(Manifest(files=entries)), indent=1)
        (partial / half / MANIFEST).write_bytes(encoded + b"\n")
