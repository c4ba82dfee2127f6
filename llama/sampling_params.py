"""Settings for choosing the next token. This module does not import torch: devices send settings but do not sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingParams:
    """Settings for choosing the next token.

    Args:
        temperature: 0 takes the likeliest token; otherwise logits are divided by it.
        top_p: smallest probability mass to choose from; 1 means the whole vocabulary.
        seed: ``0 … 2**63-1``; the same seed gives the same reply.
    """

    temperature: float = 0.6
    top_p: float = 0.9
    seed: int = 1
