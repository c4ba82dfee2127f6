"""The table of who saw what of a run, made from the policy's table. Every screen shows this table.

Knows: ``llama.privacy.policy``. Does not know: columns, colours, JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llama.edge import wording
from llama.edge.generation import GeneratedReply
from llama.privacy.policy import SEES, DataKind, Party, view
from llama.privacy.preparing import Prepared, holdings
from llama.privacy.profile import Profile
from llama.prompt import SourcedPrompt


@dataclass(frozen=True)
class ViewCell:
    """The content of one kind that one party holds.

    Attributes:
        party: the holder.
        content: the text that it holds, or None.
        says: the policy's words for it, or the reason why the party holds nothing.
    """

    party: Party
    content: str | None = field(repr=False)
    says: str


Views = Mapping[DataKind, tuple[ViewCell, ...]]
"""For each kind that the run has, one cell per party, in the order of ``Party``."""


def holdings_of(
    sourced: SourcedPrompt, profile: Profile, prepared: Prepared, reply: GeneratedReply, text: str
) -> Mapping[DataKind, str]:
    """Return all data of a run as text, by kind. ``text`` is the reply as the person reads it."""
    offers = "\n".join(map(wording.offer_line, reply.offers))
    return holdings(sourced, profile, prepared, reply.text, text, wording.counts(reply.timing), offers)


def views_of(run: Mapping[DataKind, str], *, vendor: str, raw: bool, delivered: bool = True) -> Views:
    """Make the table of who saw what.

    Args:
        run: all data of the run, by kind.
        vendor: the third party that owns the sheet, or empty.
        raw: the run was not sanitised.
        delivered: the vendor has its copy.
    """
    held = {party: view(party, run, vendors_own=bool(vendor), delivered=delivered) for party in Party}

    def cell(kind: DataKind, party: Party) -> ViewCell:
        content = held[party].get(kind)
        says = SEES[kind][party].says if content is not None else wording.not_held(kind, party, vendor, raw=raw)
        return ViewCell(party, content, says)

    return {kind: tuple(cell(kind, party) for party in Party) for kind in run}
