"""What many prompts begin with, computed once at the start: the instructions of the provider's directory of sheets.

The device's half of the checkpoint runs here for the provider's own words only; then the cloud's layers, through a slot
of the cache like any prompt's. What that leaves in the slot is kept, on every rank, and copied into a session's slot
when a device names it. Devices never write what is kept.

Knows: sheets, slots, the ranks. Does not know: sessions, sockets, anybody's words.
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

SHARE = 0.25  # of the memory for keys and values, at most

HiddenByPrefix = Mapping[tuple[int, ...], torch.Tensor]
"""Ids that prompts begin with, and the hidden states ``(len(ids), dim)`` that a device would send for them."""


@dataclass(frozen=True)
class CachedPrefix:
    """One that is kept.

    Attributes:
        number: ``ModelRunner.fill`` knows it by this.
        length: positions.
    """

    number: int
    length: int


def prefixes_of(directory: SheetDirectory, chat: ChatFormat) -> dict[str, list[tuple[int, ...]]]:
    """Ids that prompts begin with: of the model's own system message, and of each sheet before its question.

    By whose sheets they are, the provider's (and the model's own message) under the empty name; each once there, in the
    order of the sheets.
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
    """Choose those that are kept: with no more than ``most`` positions together, none that leaves no room in a context.

    First the provider's, in their order, as far as they fit; then third parties' in turns. Whoever has fewest is next:
    of its own it gets the first that still fits, and of several such third parties the one whose is shortest. So no
    third party has a second one where another has none that would have fitted, however many there are and of whatever
    lengths. One that is another's already costs nothing, and counts for both.
    """
    every = list(dict.fromkeys(ids for those in prefixes.values() for ids in those))
    number_of = {ids: number for number, ids in enumerate(every)}  # long tuples are looked up once only
    waiting = {party: [number_of[ids] for ids in those] for party, those in prefixes.items()}
    has, kept, room = dict.fromkeys(waiting, 0), list[int](), most
    while True:
        # Room only shrinks: what does not fit now never does.
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
    """Run the cloud's layers over each, and keep what that leaves in the cache; by the ids that devices name.

    Args:
        runner: with the cache's first slot free; it is again afterwards.
        fingerprint: of the split checkpoint.
        prefixes: what there is.
        max_rows: at a time.
    """
    kept = dict[bytes, CachedPrefix]()
    for ids, hidden in prefixes.items():
        for start in range(0, len(ids), max_rows):
            runner.step(0, start, hidden[start : start + max_rows], 0)
        kept[prefix_id(fingerprint, ids)] = CachedPrefix(runner.keep(0, len(ids)), len(ids))
        runner.clear(0, len(ids))
    return kept
