"""Hyperparameters that other checkpoint families write differently from Meta.

Knows: Meta's rule for the feed-forward width, and the scaling factor of the rotary embedding by model.
Knows nothing about: files.
"""

from __future__ import annotations

from llama.errors import CheckpointError
from llama.model_args import ModelArgs

DEFAULT_SCALING_FACTOR = 8.0
SMALL_SCALING_FACTOR = 32.0
SMALL_DIMS = (2048, 3072)  # Llama 3.2 1B and 3B; their factor is 32, but their params.json does not state it


def feed_forward_fields(dim: int, hidden_dim: int) -> tuple[int, float | None]:
    """Return the ``multiple_of`` and ``ffn_dim_multiplier`` with which Meta's rule gives ``hidden_dim``."""
    natural = ModelArgs(dim=dim, multiple_of=1).hidden_dim
    # Add half a unit: the rule rounds the product down, and the result must not fall below hidden_dim.
    return hidden_dim, None if natural <= hidden_dim else (hidden_dim + 0.5) / natural


def scaling_factor(use_scaled: bool, stated: float | None, asked: float | None, dim: int, where: str) -> float:
    """Return the factor of the scaled rotary embedding.

    Args:
        use_scaled: whether the checkpoint's rotary embedding is scaled at all.
        stated: factor from the checkpoint, or None.
        asked: factor from the command line, or None; overrides the checkpoint.
        dim: the model's width; decides if neither factor is given.
        where: the checkpoint, for errors.

    Raises:
        CheckpointError: a factor is given for a model without scaling, or it is below 1.
    """
    if asked is not None and not use_scaled:
        raise CheckpointError(f"{where} does not use scaled rotary embeddings; omit --rope_scaling_factor")
    by_shape = SMALL_SCALING_FACTOR if dim in SMALL_DIMS else DEFAULT_SCALING_FACTOR
    factor = next(value for value in (asked, stated, by_shape) if value is not None)
    if not 1 <= factor < float("inf"):
        raise CheckpointError(
            f"{where}: the rotary scaling factor must be 1 or more (got {factor}); set --rope_scaling_factor"
        )
    return factor
