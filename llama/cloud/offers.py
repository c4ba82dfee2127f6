"""Offers for a reply: products of the catalogue that fit its recommendations, the best first.

Knows: the score of a product for an idea, a budget, an occasion and a city, and the order of offers.
Does not know: how a reply is read (``query``), how words are found (``catalogue``), sessions, the wire's bytes.

Each offer contains its reasons: the idea that it fits, and all words that matched. An idea without a fitting product
gets no offer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llama import wire
from llama.cloud import query
from llama.cloud.catalogue import Catalogue, Preference, ProductMatch
from llama.cloud.products import Occasion
from llama.cloud.query import Budget, Idea, Query
from llama.sheets import Sheet

MAX_OFFERS = 9
MAX_PER_IDEA = 4
MAX_MATCHED = 24  # matched words in an offer

_REAL = 0.34  # lowest relevance of a product for an item of a list
_REAL_IN_TEXT = 0.4  # likewise for a clause of a text without a list: most clauses are no ideas
_UNKNOWN, _UNKNOWN_IN_TEXT = 0.5, 0.2  # weights of words that no product has: a text has many
_FITTING = 0.08  # allowance for a product with the right occasion
_NEAR = 0.7  # lowest relevance relative to the idea's best product
_OCCASION, _CITY, _PRICE = 0.2, 0.2, 0.1  # bonuses added to a relevance of 0 … 1


@dataclass(frozen=True)
class _Fit:
    """A product for an idea.

    Attributes:
        found: the product with its match.
        affordable: whether its price is within the budget.
        score: higher is better.
        matched: the matched words that the offer shows.
    """

    found: ProductMatch
    affordable: bool
    score: float
    matched: tuple[str, ...]


def offers_for(text: str, sheet: Sheet | None, catalogue: Catalogue, vendor: str | None) -> tuple[wire.Offer, ...]:
    """Return at most :data:`MAX_OFFERS` products that fit a reply.

    Every idea's best product comes before any idea's second best. Products above the budget come after all others.

    Args:
        text: the reply as the cloud has it; any text.
        sheet: the sheet of the run. Its id and title may name the occasion. For an Indonesian sheet, so are the titles.
        catalogue: the catalogue to search.
        vendor: only products of exactly this vendor.

    Raises:
        CatalogueError: the catalogue cannot be read.
    """
    said = query.query_of(text, catalogue.cities)
    occasions = {**_occasions_of(sheet), **said.occasions}
    fits = [(idea, _fits(idea, said, occasions, catalogue, vendor)) for idea in said.ideas]
    if not said.listed:  # a clause may be no idea; the likeliest first
        fits.sort(key=lambda pair: (pair[0].aside, -max((fit.score for fit in pair[1]), default=0)))
    indonesian = sheet is not None and sheet.language == "id"
    return tuple(_offer(idea, fit, indonesian) for idea, fit in _in_turns(fits))[:MAX_OFFERS]


def _occasions_of(sheet: Sheet | None) -> dict[Occasion, str]:
    return {} if sheet is None else query.occasions_in(f"{sheet.title}\n{sheet.id.replace('-', ' ')}\n{sheet.id}")


def _fits(
    idea: Idea, said: Query, occasions: Mapping[Occasion, str], catalogue: Catalogue, vendor: str | None
) -> list[_Fit]:
    """Return the products that fit an idea, the best first."""
    budget = idea.budget or said.budget
    wanted = {**occasions, **idea.occasions}
    preference = Preference(
        budget.least if budget else 0, budget.most if budget else None, frozenset(wanted), said.city
    )
    ordinary = {word for word, weight in idea.words.items() if weight == query.ORDINARY}
    if not ordinary:  # "a nice set" names no product
        return []
    enough = _REAL if said.listed else _REAL_IN_TEXT
    real = [
        found
        for found in catalogue.search(
            idea.words,
            spellings=query.spellings_of(idea.words),
            unknown=_UNKNOWN if said.listed else _UNKNOWN_IN_TEXT,
            vendor=vendor,
            preference=preference,
        )
        if found.relevance >= enough - (_FITTING if set(wanted) & set(found.product.occasions) else 0)
        and found.named & ordinary
        and (vendor is None or found.product.vendor == vendor)
    ]
    fits = [_fit(found, budget, wanted, said) for found in real]
    # A product above the budget must not displace a slightly less relevant one within it.
    near = {
        affordable: _NEAR
        * max((fit.found.relevance for fit in fits if affordable in (False, fit.affordable)), default=0)
        for affordable in (True, False)
    }
    fits = [fit for fit in fits if fit.found.relevance >= near[fit.affordable]]
    return sorted(fits, key=lambda fit: (not fit.affordable, -fit.score, fit.found.product.id))


def _fit(found: ProductMatch, budget: Budget | None, wanted: Mapping[Occasion, str], said: Query) -> _Fit:
    product, score, matched = found.product, found.relevance, list(found.words[:MAX_MATCHED])
    named = [written for occasion, written in wanted.items() if occasion in product.occasions]
    if named:
        score += _OCCASION
        matched += named
    if said.city and found.delivered:
        score += _CITY
        matched.append(said.city_written)
    affordable = budget is None or budget.most is None or product.price <= budget.most
    if budget is not None and affordable and product.price >= budget.least:
        score += _PRICE
        matched.append(budget.written)
    spelled = {word.casefold(): word for word in reversed(matched)}
    return _Fit(found, affordable, score, tuple(reversed(spelled.values())))


def _in_turns(fits: Sequence[tuple[Idea, list[_Fit]]]) -> Iterator[tuple[Idea, _Fit]]:
    """Yield every idea's best affordable product, every idea's second best, …; then the unaffordable ones likewise.

    Each product comes once, and so does each title.
    """
    seen_ids, seen_titles = set[str](), set[str]()
    given = [0] * len(fits)
    for affordable in (True, False):
        left = [iter([fit for fit in idea_fits if fit.affordable == affordable]) for _, idea_fits in fits]
        progress = True
        while progress:
            progress = False
            for i, (idea, _) in enumerate(fits):
                if given[i] == MAX_PER_IDEA:
                    continue
                for fit in left[i]:
                    product = fit.found.product
                    titles = {product.title.casefold(), product.title_id.casefold()} - {""}
                    if product.id in seen_ids or titles & seen_titles:
                        continue
                    seen_ids.add(product.id)
                    seen_titles |= titles
                    given[i] += 1
                    progress = True
                    yield idea, fit
                    break


def _offer(idea: Idea, fit: _Fit, indonesian: bool) -> wire.Offer:
    product = fit.found.product
    title = product.title_id if indonesian and product.title_id else product.title
    return wire.Offer(product.id, product.vendor, title, product.price, product.url, idea.item, fit.matched)
