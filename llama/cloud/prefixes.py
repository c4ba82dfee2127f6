"""What many prompts begin with, computed once at the start: the instructions of the provider's sheets.

The device's half of the checkpoint runs here for the provider's own words only; then the cloud's layers, through a row
of the cache like any prompt's. What that leaves in the row is kept, on every rank, and copied into a session's row when
a device names it. Devices never write what is kept.

Knows: sheets, rows, the ranks. Does not know: sessions, sockets, anybody's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from llama.chat import ChatFormat
from llama.cloud.ranks import Ranks
from llama.prefix import instructions
from llama.sheets import SheetDirectory
from llama.wire import prefix_id

SHARE = 0.25  # of the memory for keys and values, at most

Openings = Mapping[tuple[int, ...], torch.Tensor]
"""Ids that prompts begin with, and the device's rows ``(len(ids), dim)`` for them."""


@dataclass(frozen=True)
class Prefix:
    """One that is kept.

    Attributes:
        number: ``Ranks.fill`` knows it by this.
        length: positions.
    """

    number: int
    length: int


def openings_of(directory: SheetDirectory, chat: ChatFormat) -> list[tuple[int, ...]]:
    """Ids that prompts begin with: of the model's own system message, and of each sheet before its question.

    Each once, in the order of the sheets.
    """
    dialogues = [
        instructions(listed.sheet, party=listed.party, provider_system=directory.system)
        for listed in directory.sheets.values()
    ]
    openings = dict.fromkeys(tuple(chat.encode_opening(messages)) for messages in [[], *dialogues])
    return [ids for ids in openings if ids]


def that_fit(openings: Sequence[tuple[int, ...]], max_seq_len: int, most: int) -> list[tuple[int, ...]]:
    """The first of them, with no more than ``most`` positions together; none that leaves no room in a context."""
    fit, positions = list[tuple[int, ...]](), 0
    for ids in openings:
        if len(ids) < max_seq_len and positions + len(ids) <= most:
            fit.append(ids)
            positions += len(ids)
    return fit


def keep(ranks: Ranks, fingerprint: bytes, openings: Openings, max_rows: int) -> dict[bytes, Prefix]:
    """Run the cloud's layers over each, and keep what that leaves in the cache; by the ids that devices name.

    Args:
        ranks: with the cache's first row free; it is again afterwards.
        fingerprint: of the split checkpoint.
        openings: what there is.
        max_rows: at a time.
    """
    kept = dict[bytes, Prefix]()
    for ids, rows in openings.items():
        for start in range(0, len(ids), max_rows):
            ranks.step(0, start, rows[start : start + max_rows], 0)
        kept[prefix_id(fingerprint, ids)] = Prefix(ranks.keep(0, len(ids)), len(ids))
        ranks.clear(0, len(ids))
    return kept
