"""Reproducible sampling of one token id from logits.

The id at output index i depends only on the logits, the settings and ``(seed, i)``. No generator state is kept, so a
request that is replayed, resumed on another machine or batched with others samples the same id again.

Knows nothing about: sessions, text, the half that it runs in.
"""

from __future__ import annotations

import hashlib

import torch

from llama.sampling_params import SamplingParams

# Only this many top ids are sorted first: with usual settings a few hundred ids hold the kept mass. The whole
# vocabulary is sorted only if they do not suffice.
FIRST_CANDIDATES = 1024
_BUCKETS = 1 << 16


def uniform(seed: int, index: int) -> float:
    """Return a number in [0, 1) with 53 random bits from BLAKE2b of ``(seed, index)``."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + index.to_bytes(8, "little"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def sample(logits: torch.Tensor, sampling: SamplingParams, index: int) -> int:
    """Return the token id for output ``index`` from float32 logits ``(vocab,)``.

    Top-p keeps, in order of probability, every id whose *preceding* mass is at most ``top_p`` (Meta's rule, so at least
    one remains). The id is the one at :func:`uniform` in the renormalised cumulative mass.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Subtract the largest logit before the division, so that a small temperature cannot overflow.
    probs = torch.softmax((logits.double() - logits.max()) / sampling.temperature, dim=-1)
    mass, ids = torch.topk(probs, min(FIRST_CANDIDATES, len(probs)))
    draw = uniform(sampling.seed, index)
    if sampling.top_p >= 1 or float(mass.sum()) <= sampling.top_p:
        if probs.device.type == "cpu":
            total = float(probs.sum()) if sampling.top_p >= 1 else at_mass(probs, sampling.top_p)[1]
            return at_mass(probs, draw * total)[0]
        mass, ids = torch.sort(probs, descending=True, stable=True)
    cumulative = mass.cumsum(-1)
    kept = int(((cumulative - mass) <= sampling.top_p).sum())
    threshold = draw * float(cumulative[kept - 1])
    chosen = int(torch.searchsorted(cumulative[:kept], threshold, right=True))
    return int(ids[min(chosen, kept - 1)])


def at_mass(probs: torch.Tensor, mass: float) -> tuple[int, float]:
    """Return the first id whose cumulative probability exceeds ``mass``, and that cumulative probability.

    Ids are in order of probability, equal ones in order of id. Only the ids near the result are sorted, in a fraction
    of the time for the whole vocabulary: a flat distribution must not slow the other sequences of a pass.

    Args:
        probs: float64 ``(vocab,)``, on the CPU.
        mass: 0 to 1; above the total probability, the last id is returned.
    """
    # A positive float's bits grow with its value. The buckets: sixteen binades below the largest value in 4096 steps
    # each, and one bucket for all smaller values.
    bits = probs.view(torch.int64) >> 40
    buckets = (bits - (int(bits.max()) - (_BUCKETS - 1))).clamp(min=0)
    masses = torch.bincount(buckets, weights=probs, minlength=_BUCKETS).flip(0)
    cumulative = masses.cumsum(-1)
    place = min(int(torch.searchsorted(cumulative, mass, right=True)), int(masses.nonzero()[-1]))
    before = float(cumulative[place] - masses[place])
    ids = (buckets == _BUCKETS - 1 - place).nonzero().flatten()
    inside, order = torch.sort(probs[ids], descending=True, stable=True)
    within = inside.cumsum(-1) + before
    chosen = min(int(torch.searchsorted(within, mass, right=True)), len(ids) - 1)
    return int(ids[order[chosen]]), float(within[chosen])
