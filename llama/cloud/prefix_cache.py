"""The prefix cache: keys and values of the instructions in the provider's sheet directory, computed once at the start.

Many prompts begin with these instructions. At the start the cloud runs the device's half for them, and never for a
person's words. It then runs the cloud's layers, in a slot of the KV cache as for a prompt. Each rank keeps a copy of
that slot's keys and values, and copies it into a session's slot when a device names the prefix. Devices never write to
the kept copies.

Knows: sheets, slots, the ranks. Does not know: sessions, sockets, people's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from llama.chat import ChatFormat
from llama.cloud.model_runner import ModelRunner
from llama.prefix import instructions
from llama.sheets import SheetDirectory
from llama.wire import prefix_id

SHARE = 0.25  # maximum share of the memory for keys and values

HiddenByPrefix = Mapping[tuple[int, ...], torch.Tensor]
"""The ids of each prefix, and the hidden states ``(len(ids), dim)`` that a device would send for them."""


@dataclass(frozen=True)
class CachedPrefix:
    """An entry of the prefix cache.

    Attributes:
        number: its number for ``ModelRunner.fill``.
        length: number of positions.
    """

    number: int
    length: int


def prefixes_of(directory: SheetDirectory, chat: ChatFormat) -> dict[str, list[tuple[int, ...]]]:
    """Return the ids that prompts begin with: the model's own system message, and each sheet up to its question.

    They are grouped by the third party whose sheet it is. The provider's sheets and the model's own message are under
    the empty name. Each group lists a prefix once, in the order of the sheets.
    """
    listed = [*directory.sheets.values()]
    first_messages = [instructions(each.sheet, party=each.party, provider_system=directory.system) for each in listed]
    prefixes: dict[str, dict[tuple[int, ...], None]] = {"": {}}
    for party, ids in zip(["", *(each.party for each in listed)], chat.prefixes([[], *first_messages]), strict=True):
        prefixes.setdefault(party, {})[tuple(ids)] = None
    return {party: [ids for ids in those if ids] for party, those in prefixes.items()}


def choose_prefixes(
    prefixes: Mapping[str, Sequence[tuple[int, ...]]], max_seq_len: int, most: int
) -> list[tuple[int, ...]]:
    """Choose the prefixes to keep, with no more than ``most`` positions together.

    A prefix must leave room in the context of ``max_seq_len``. The provider's come first, in their order, as far as
    they fit. Then third parties take turns. The third party with the fewest kept prefixes is next, and gets the first
    of its own that still fits. On a tie the third party whose prefix is shortest comes first.

    So no third party gets a second prefix while another has none that would have fitted, for any number of third
    parties and any lengths. A prefix that two third parties share is kept once, and counts for both.
    """
    every = list(dict.fromkeys(ids for those in prefixes.values() for ids in those))
    number_of = {ids: number for number, ids in enumerate(every)}  # so that long tuples are hashed only once
    waiting = {party: [number_of[ids] for ids in those] for party, those in prefixes.items()}
    has, kept, room = dict.fromkeys(waiting, 0), list[int](), most
    while True:
        # Room only shrinks: a prefix that does not fit now will not fit later.
        waiting = {
            party: [n for n in those if len(every[n]) < max_seq_len and len(every[n]) <= room]
            for party, those in waiting.items()
        }
        turns = [(party != "", has[party], len(every[those[0]]), party) for party, those in waiting.items() if those]
        if not turns:
            return [every[number] for number in kept]
        chosen = waiting[min(turns)[-1]][0]
        kept.append(chosen)
        room -= len(every[chosen])
        for party, those in waiting.items():
            if chosen in those:
                those.remove(chosen)
                has[party] += 1


def keep(runner: ModelRunner, fingerprint: bytes, prefixes: HiddenByPrefix, max_rows: int) -> dict[bytes, CachedPrefix]:
    """Run the cloud's layers over each prefix and keep its keys and values. Return the entries by prefix id.

    Args:
        runner: the model. The first slot of its cache must be free, and is free again afterwards.
        fingerprint: fingerprint of the split checkpoint.
        prefixes: the prefixes to keep, with their hidden states.
        max_rows: maximum rows in one step.
    """
    kept = dict[bytes, CachedPrefix]()
    for ids, hidden in prefixes.items():
        for start in range(0, len(ids), max_rows):
            runner.step(0, start, hidden[start : start + max_rows], 0)
        kept[prefix_id(fingerprint, ids)] = CachedPrefix(runner.keep(0, len(ids)), len(ids))
        runner.clear(0, len(ids))
    return kept
