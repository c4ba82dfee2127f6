"""Make ``llama/privacy/data/name_letters.txt``: how much each group of letters speaks for a name.

    python -m tests.training.letters

A logistic regression over the groups of two to four letters of a word, fitted to the names and the words of the
lexicon. It judges names that no list has. Weights are in tenths.
"""

from __future__ import annotations

from collections import Counter

import torch

from llama.command import run
from llama.privacy.lexicon import NAME_LETTERS, all_entries, letter_groups

_LEAST = 12  # words that must have a group
_STEPS = 150

_HEAD = """\
# How much each group of letters of a word speaks for a name (against an ordinary word of English or Indonesian), in
# tenths; < and > are the word's ends. Before each line the weight of all its groups. Made by
# tests/training/letters.py from lexicon.txt, and under its licence, CC BY-SA 4.0.
"""


def main() -> None:
    """Fit the weights and write the file."""

    names, words = list[str](), list[str]()
    for word, entry in all_entries().items():
        if entry.frequency <= 3 and (entry.given >= 1 or entry.surname >= 1):
            names.append(word)
        elif entry.frequency >= 3 and entry.given == 0 and entry.surname <= 1:
            words.append(word)
    counts = Counter(group for word in (*names, *words) for group in set(letter_groups(word)))
    index = {group: i for i, group in enumerate(sorted(g for g, n in counts.items() if n >= _LEAST))}
    rows = [[index[g] for g in letter_groups(word) if g in index] for word in (*names, *words)]
    flat = torch.tensor([i for row in rows for i in row])
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)[:-1]
    target = torch.tensor([1.0] * len(names) + [0.0] * len(words))
    # Names and words count alike, however many there are of each.
    balance = torch.where(target > 0, len(target) / (2 * len(names)), len(target) / (2 * len(words)))
    weights = torch.zeros(len(index), 1, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.05)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        scores = torch.nn.functional.embedding_bag(flat, weights, offsets, mode="sum")[:, 0]
        loss = (
            torch.nn.functional.binary_cross_entropy_with_logits(scores, target, balance)
            + 3e-6 * weights.square().sum()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    right = ((scores > 0) == (target > 0)).float()
    print(f"names {right[: len(names)].mean():.3f}, words {right[len(names) :].mean():.3f} on the right side")
    by_weight = dict[int, list[str]]()
    for group, i in index.items():
        by_weight.setdefault(round(10 * weights[i, 0].item()), []).append(group)
    by_weight.pop(0, None)
    lines = [f"{weight} {' '.join(by_weight[weight])}" for weight in sorted(by_weight)]
    NAME_LETTERS.write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{sum(map(len, by_weight.values())):,} groups, {NAME_LETTERS.stat().st_size:,} bytes")


if __name__ == "__main__":
    run(main)
