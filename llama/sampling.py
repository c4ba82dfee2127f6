"""From logits to one token id, reproducibly.

The id at output index i is a function of the logits, the settings and ``(seed, i)`` alone: no generator is kept, so a
request that is replayed, resumed on another machine or batched with others samples the same id again.

Knows nothing about: sessions, text, which half it runs in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

# Rows are sorted this far before the whole vocabulary is: with usual settings the kept mass lies in a few hundred ids.
FIRST_CANDIDATES = 1024


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token; otherwise logits are divided by it.
        top_p: smallest probability mass to choose from; 1 is the whole vocabulary.
        seed: ``0 … 2**63-1``; the same seed gives the same reply.
    """

    temperature: float = 0.6
    top_p: float = 0.9
    seed: int = 1


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) with 53 random bits, drawn from BLAKE2b of ``(seed, index)``."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + index.to_bytes(8, "little"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def sample(logits: torch.Tensor, sampling: Sampling, index: int) -> int:
    """Token id for output ``index`` from float32 logits ``(vocab,)``.

    Top-p keeps, in order of probability, every id whose *preceding* mass is at most ``top_p`` (Meta's rule, so at least
    one stays), and the id is read off the renormalised cumulative mass at :func:`uniform`.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    # The largest becomes 0 before the division, which no temperature can then make overflow.
    probs = torch.softmax((logits.double() - logits.max()) / sampling.temperature, dim=-1)
    mass, ids = torch.topk(probs, min(FIRST_CANDIDATES, len(probs)))
    if sampling.top_p >= 1 or float(mass.sum()) <= sampling.top_p:
        mass, ids = torch.sort(probs, descending=True, stable=True)
    cumulative = mass.cumsum(-1)
    kept = int(((cumulative - mass) <= sampling.top_p).sum())
    threshold = uniform(sampling.seed, index) * float(cumulative[kept - 1])
    chosen = int(torch.searchsorted(cumulative[:kept], threshold, right=True))
    return int(ids[min(chosen, kept - 1)])
