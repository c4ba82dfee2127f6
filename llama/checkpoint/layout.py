"""The tensors of a Llama checkpoint, the half that each belongs to, and its division among ranks.

Knows: Meta's state-dict keys, the shapes that follow from the hyperparameters, and fairscale's division of each layer
(github.com/meta-llama/llama3, ``llama/model.py``: column-parallel layers are cut along ``out``, row-parallel ones along
``in``, norms not at all).
Knows nothing about: files, dtypes, other checkpoint families.
"""

from __future__ import annotations

import math

from llama.errors import CheckpointError
from llama.model_args import ModelArgs

EMBEDDINGS = "tok_embeddings.weight"
NORM = "norm.weight"
OUTPUT = "output.weight"
HALVES = ("edge", "cloud")

# Last parts of the names under which caches of the rotary embedding have been saved with weights.
_ROTARY_TABLES = {"inv_freq", "original_inv_freq", "cos_cached", "sin_cached", "freqs_cis", "freqs_cos", "freqs_sin"}
_ROTARY_TABLES |= {"cos_cache", "sin_cache"}

_AS_RELEASED = "use the settings as released"
LARGEST_RANK_COUNT = 64  # highest rank count that an error suggests
LARGEST_SIZE = 2**31 - 1  # far beyond any model; keeps products computable
LARGEST_DEPTH = 500  # layers; the deepest model known has 126
LARGEST_CONTEXT = 1 << 24  # positions; the longest context of a known model is 10 million

Region = tuple[slice, ...]
"""The part of a tensor that one rank holds: one slice per dimension, with start and stop."""

_CUT_ALONG = {
    "tok_embeddings": 0,
    "wq": 0,
    "wk": 0,
    "wv": 0,
    "wo": 1,
    "w1": 0,
    "w2": 1,
    "w3": 0,
    "attention_norm": None,
    "ffn_norm": None,
    "norm": None,
    "output": 0,
}


def tensor_shapes(args: ModelArgs) -> dict[str, tuple[int, ...]]:
    """Return every tensor of the whole model with its unsharded shape, in the order of Meta's state dict.

    Each key/value head counts once, even if several ranks hold copies of it.
    """
    kv_dim = args.kv_heads * args.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attention.wq.weight": (args.dim, args.dim),
        "attention.wk.weight": (kv_dim, args.dim),
        "attention.wv.weight": (kv_dim, args.dim),
        "attention.wo.weight": (args.dim, args.dim),
        "feed_forward.w1.weight": (args.hidden_dim, args.dim),
        "feed_forward.w2.weight": (args.dim, args.hidden_dim),
        "feed_forward.w3.weight": (args.hidden_dim, args.dim),
        "attention_norm.weight": (args.dim,),
        "ffn_norm.weight": (args.dim,),
    }
    layers = {f"layers.{i}.{name}": shape for i in range(args.n_layers) for name, shape in layer.items()}
    vocabulary = (args.vocab_size, args.dim)
    return {EMBEDDINGS: vocabulary, **layers, NORM: (args.dim,), OUTPUT: vocabulary}


def is_rotary_table(name: str) -> bool:
    """Return whether a tensor is derived from the rotary settings: frequencies, or cosines and sines of positions."""
    words = name.split(".")
    return words[-1] in _ROTARY_TABLES or words[-2:] == ["rope", "freqs"]


def half_of(name: str, split_layer: int) -> str:
    """Return ``edge`` for the embeddings and layers ``0 … split_layer-1``, ``cloud`` for the rest."""
    if name == EMBEDDINGS:
        return "edge"
    if name in (NORM, OUTPUT):
        return "cloud"
    return "edge" if int(name.split(".")[1]) < split_layer else "cloud"


def region(
    name: str, shape: tuple[int, ...], args: ModelArgs, rank: int, ranks: int, *, embeddings_along: int = 0
) -> Region:
    """Return the part of tensor ``name`` (unsharded shape ``shape``) that rank ``rank`` of ``ranks`` holds.

    With more ranks than key/value heads, the adjacent ranks whose query heads read a head all hold it.

    ``embeddings_along`` is 1 for Llama 2, whose embedding table is divided along its columns.
    """
    layer = name.split(".")[-2]
    along = embeddings_along if name == EMBEDDINGS else _CUT_ALONG[layer]
    whole = tuple(slice(0, size) for size in shape)
    if along is None:
        return whole
    parts, part = ranks, rank
    if layer in ("wk", "wv") and ranks > args.kv_heads:
        parts, part = args.kv_heads, rank * args.kv_heads // ranks
    width = shape[along] // parts
    return (*whole[:along], slice(part * width, (part + 1) * width), *whole[along + 1 :])


def region_shape(region: Region) -> tuple[int, ...]:
    """Return the shape of a region."""
    return tuple(part.stop - part.start for part in region)


def fits(args: ModelArgs, ranks: int) -> bool:
    """Return whether the model can be divided among ``ranks`` ranks."""
    heads_fit = args.kv_heads % ranks == 0 or ranks % args.kv_heads == 0
    return heads_fit and all(size % ranks == 0 for size in (args.n_heads, args.hidden_dim, args.vocab_size))


def check_ranks(args: ModelArgs, ranks: int) -> None:
    """Refuse a number of model-parallel ranks that does not divide the model.

    Raises:
        CheckpointError: names the sizes that do not divide and the counts up to 64 that would fit.
    """
    if ranks >= 1 and fits(args, ranks):
        return
    counts = ", ".join(str(n) for n in range(1, LARGEST_RANK_COUNT + 1) if fits(args, n))
    raise CheckpointError(
        f"a model with {args.n_heads} heads, {args.kv_heads} key/value heads, feed-forward width {args.hidden_dim} and "
        f"{args.vocab_size} tokens cannot be divided among {ranks} ranks; counts that fit: {counts}"
    )


def check_numbers(args: ModelArgs, where: str = "") -> None:
    """Refuse hyperparameters that make no computable model.

    Args:
        args: with ``vocab_size`` and ``n_kv_heads`` given.
        where: prefix of the error message.

    Raises:
        CheckpointError: names the wrong hyperparameter.
    """
    sizes = {name: getattr(args, name) for name in ("dim", "n_layers", "n_heads", "vocab_size", "multiple_of")}
    for name, size in {**sizes, "n_kv_heads": args.kv_heads}.items():
        most = LARGEST_DEPTH if name == "n_layers" else LARGEST_SIZE
        if not 1 <= size <= most:
            raise _wrong(where, f"{name} must be 1 to {most} (got {size}); {_AS_RELEASED}")
    if args.dim % args.n_heads or args.n_heads % args.kv_heads:
        raise _wrong(where, f"dim, n_heads and n_kv_heads do not divide; {_AS_RELEASED}")
    multiplier = args.ffn_dim_multiplier
    if multiplier is not None and not 0 < multiplier <= LARGEST_SIZE:
        raise _wrong(where, f"ffn_dim_multiplier must be above 0 (got {multiplier}); {_AS_RELEASED}")
    if args.hidden_dim > LARGEST_SIZE:
        raise _wrong(
            where, f"dim, multiple_of and ffn_dim_multiplier make the feed-forward layer too wide; {_AS_RELEASED}"
        )
    if args.head_dim < 2 or args.head_dim % 2:
        raise _wrong(where, f"the width of a head must be even (got {args.head_dim}); dim or n_heads is wrong")
    numbers = {
        "norm_eps": args.norm_eps,
        "rope_theta": args.rope_theta,
        "rope_scaling_factor": args.rope_scaling_factor,
    }
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise _wrong(where, f"{name} must be above 0 (got {value}); {_AS_RELEASED}")


def check_context_length(positions: int, where: str) -> None:
    """Refuse a context length that no cache could hold.

    Raises:
        CheckpointError: names the range.
    """
    if not 1 <= positions <= LARGEST_CONTEXT:
        raise _wrong(
            where, f"the context length must be 1 to {LARGEST_CONTEXT} positions (got {positions}); {_AS_RELEASED}"
        )


def check_layers(n_layers: int, n_tensors: int, where: str) -> None:
    """Refuse more layers than the files can hold, before anything is allocated per layer.

    Raises:
        CheckpointError: names both numbers.
    """
    if n_layers > n_tensors:
        raise _wrong(
            where,
            f"it claims {n_layers} layers, but its files hold only {n_tensors} tensors, and each layer needs "
            f"several; finish the download, or use files of one model",
        )


def _wrong(where: str, what: str) -> CheckpointError:
    return CheckpointError(f"{where}: {what}" if where else what)


def check_split_layer(args: ModelArgs, split_layer: int) -> None:
    """Refuse a split that leaves one half without a layer.

    Raises:
        CheckpointError: names the range.
    """
    if args.n_layers < 2:
        raise CheckpointError(f"a model of {args.n_layers} layer cannot be split; use one with two or more layers")
    if not 1 <= split_layer < args.n_layers:
        raise CheckpointError(
            f"the split layer of a model of {args.n_layers} layers must be 1 to {args.n_layers - 1} (got {split_layer})"
        )
