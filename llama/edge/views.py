"""Makes the table of who saw what of a run, from the policy's table; every screen shows this one.

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
    """What one party holds of one kind.

    Attributes:
        party: whose.
        content: what it holds, or None.
        says: how the policy puts it, or why the party holds nothing.
    """

    party: Party
    content: str | None = field(repr=False)
    says: str


Views = Mapping[DataKind, tuple[ViewCell, ...]]
"""Per kind that there is of a run, a cell per party, in the order of ``Party``."""


def holdings_of(
    sourced: SourcedPrompt, profile: Profile, prepared: Prepared, reply: GeneratedReply, text: str
) -> Mapping[DataKind, str]:
    """Write down all that there is of a run, in words, by kind; ``text`` is the reply as the person reads it."""
    offers = "\n".join(map(wording.offer_line, reply.offers))
    return holdings(sourced, profile, prepared, reply.text, text, wording.counts(reply.timing), offers)


def views_of(run: Mapping[DataKind, str], *, vendor: str, raw: bool, delivered: bool = True) -> Views:
    """Make the table of who saw what.

    Args:
        run: all that there is of it.
        vendor: whose sheet it was, or empty.
        raw: it was not sanitised.
        delivered: the vendor has its copy.
    """
    held = {party: view(party, run, vendors_own=bool(vendor), delivered=delivered) for party in Party}

    def cell(kind: DataKind, party: Party) -> ViewCell:
        content = held[party].get(kind)
        says = SEES[kind][party].says if content is not None else wording.not_held(kind, party, vendor, raw=raw)
        return ViewCell(party, content, says)

    return {kind: tuple(cell(kind, party) for party in Party) for kind in run}
