"""THE BOUNDARY: the only file that turns the person's words into words that may leave the device.

There are two rings. *Declared*: every value of the profile that is not open, in all its written forms, becomes a tag
such as ``[NAME_1]``. *Patterns*: ``llama.privacy.recognisers`` finds personal data beyond that. The same value gets the
same tag throughout a session, also where only a part of a name is written. Tags are numbered past any tag-shaped text
of the sheet or the person. So such text never equals an issued tag, and no text is rewritten for it.

Only :class:`Sanitiser` makes :class:`CleanText`, and ``llama.privacy.merging`` accepts no other form of the person's
words. The map from tags to values is kept here, in memory, for one session. This module opens no file and no socket.
"""

from __future__ import annotations

import bisect
import datetime as dt
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import regex

from llama.privacy.generalise import generalised
from llama.privacy.lexicon import entry, plain
from llama.privacy.normalised import NormalisedText, compact, in_order
from llama.privacy.places import is_place
from llama.privacy.policy import (
    IDENTIFYING,
    FieldPolicy,
    Generaliser,
    field_of,
    neutral_kind,
    same_field,
)
from llama.privacy.profile import PRIVATE_WORDS, Profile, ProfileField, Value, text_of
from llama.privacy.recognisers import Hit, hits_in
from llama.privacy.secret import Secret
from llama.privacy.secret_index import SecretIndex, SecretSpan
from llama.privacy.stretches import Stretches
from llama.privacy.tags import name_of, tag_pattern, tags_written_in
from llama.privacy.variants.numbers import national
from llama.text.money import rupiah

Mode = Literal["schema", "off"]
MAX_SOUGHT = 300
_SHORT_DATE = 5  # characters; a shorter find is an age or a day without its month
_EVERYDAY = 4  # zipf from which a word in small letters is an everyday one, even if it is a name here
# White space is matched from its first sign only. Otherwise a long row of it would be read once from each sign.
_ITEM_ENDS = re.compile(r"(?:(?<!\s)\s++)?[,;]\s*|(?<!\s)\s++(?:and|dan|&)\s+")
_LINES_AND_TABS = {ord("\n"): None, ord("\t"): None}
_PRIVATE_USE = re.compile(r"[\ue000-\uf8ff]")
MODES: tuple[Mode, ...] = ("schema", "off")


@dataclass(frozen=True)
class CleanText:
    """Words of the person's that may leave. Made by :class:`Sanitiser` only. They do not print."""

    text: str = field(repr=False)


@dataclass(frozen=True)
class Substitute(CleanText):
    """Tags and coarser values that leave in place of a field; none of these words are the person's own.

    Attributes:
        field: the field they stand for.
    """

    field: str = ""


@dataclass(frozen=True)
class _Tag:
    tag: str
    stands_for: str = field(repr=False)


class Sanitiser:
    """The boundary of one session.

    Args:
        profile: the declared values.
        mode: ``schema``, or ``off``: all text passes unchanged.
        reserved: other people's texts of this session; tags that they contain are not issued.
        own: the person's own texts that will be cleaned, so that a find in one text is known in all.
        language: language of the generalised values, ``en`` or ``id``.
        asked: fields that the sheet asks for. Where only a profile can tell the kind of a value, only tags of these
            fields state it. None: tags of all fields do.
        today: the date from which ages are counted.
    """

    def __init__(
        self,
        profile: Profile,
        mode: Mode = "schema",
        *,
        reserved: Iterable[str] = (),
        own: Iterable[str] = (),
        language: str = "en",
        asked: Iterable[str] | None = None,
        today: dt.date | None = None,
    ) -> None:
        self.profile, self.mode, self.language = profile, mode, language
        self.secrets = SecretIndex(today)
        self._asked = None if asked is None else {other for name in asked for other in same_field(name)}
        self._index_of: dict[tuple[str, int], int] = {}  # field and position in its values → its secret
        self._values: dict[str, str] = {}  # tag → its value
        self._tag_of: dict[tuple[str, str], str] = {}  # kind and compact value → its tag
        self._known: dict[str, int] = {}  # compact form of a value → index of its secret
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}
        self._literal: dict[str, int] = {}  # private words that their variants do not find → their secrets
        if mode == "off":
            return
        fields = profile.fields.values()
        texts = [*own, *(self._text_of(each) for each in fields if each.policy is FieldPolicy.OPEN)]
        for text in (*reserved, *texts):
            self._taken |= tags_written_in(text)
        for each in fields:
            self._declare(each)
        self._declared = len(self.secrets.secrets)
        # A value that this person has chosen to send openly is not masked by patterns.
        self._opened = [compact(text_of(value)) for each in fields if each.is_opened for value in each.values]
        self._views = {text: NormalisedText(text) for text in (visible(_normal(each)) for each in texts)}
        for view in self._views.values():
            self._discover_in(view)

    def __repr__(self) -> str:
        return f"Sanitiser(mode={self.mode!r}, {len(self._values)} tags)"

    @property
    def tags(self) -> Mapping[str, str]:
        """Issued tags, each with its value. For the device's own screen only."""
        return self._values

    def declared_in(self, text: str) -> list[str]:
        """Return the names of the fields whose declared values a text contains."""
        found = [f.index for f in self.secrets.find(visible(_normal(text))) if f.index < self._declared]
        return list(dict.fromkeys(self.secrets.secrets[index].field for index in found))

    def clean(self, text: str) -> CleanText:
        """Return the person's own words with a tag for each secret."""
        if self.mode == "off":
            return CleanText(text)
        text = _without_issued_tags(_normal(text), {tag.strip("[]") for tag in self._values})
        places = dict[str, str]()  # a private-use sign for each tag that is set before invisible signs are removed
        if visible(text) != text:  # mask declared values first: an invisible sign may separate one from its neighbour
            pieces = self._masked(_PRIVATE_USE.sub("", text), discover=False)
            marks = [p if isinstance(p, str) else places.setdefault(p.tag, chr(0xE000 + len(places))) for p in pieces]
            text = visible("".join(marks))
        cleaned = _joined(self._masked(text, discover=True))
        if places:  # in a find around such a sign, put the value back in place of the sign
            values = {ord(mark): self._values[tag] for tag, mark in places.items()}
            self._values.update({tag: value.translate(values) for tag, value in self._values.items()})
            cleaned = cleaned.translate({ord(mark): tag for tag, mark in places.items()})
        return CleanText(cleaned)

    def masked_in(self, text: str) -> list[tuple[int, int]]:
        """Return the stretches of a text without invisible signs that become tags."""
        spans, position = list[tuple[int, int]](), 0
        for piece in self._masked(text, discover=True):
            if isinstance(piece, _Tag):
                spans.append((position, position + len(piece.stands_for)))
            position += len(piece if isinstance(piece, str) else piece.stands_for)
        return spans

    def _masked(self, text: str, *, discover: bool) -> list[str | _Tag]:
        """Split the text into pieces, with a tag for each secret. A tag makes new edges: the rest is searched again."""
        view = self._views.get(text) or NormalisedText(text)
        found = self._discover_in(view) if discover else []
        found += [(f.start, f.end, f.index) for f in self.secrets.find(view)]
        found += self._literal_in(text)
        if not found:
            return [text]
        pieces, position = list[str | _Tag](), 0
        for start, end, index in self._merged(found):
            value = text[start:end]
            pieces += [*self._masked(text[position:start], discover=False), _Tag(self._tag(index, value), value)]
            position = end
        return [*pieces, *self._masked(text[position:], discover=False)]

    def _literal_in(self, text: str) -> list[tuple[int, int, int]]:
        """Find the private words without variants, in their own spelling and as whole words: *Al*, *007*, *Ada*."""
        if not self._literal:
            return []
        pattern = whole_words(sorted(self._literal, key=len, reverse=True))
        return [(*m.span(), self._literal[m[0]]) for m in pattern.finditer(text)]

    def field_text(self, name: str) -> CleanText | None:
        """Return a field of the profile in the form in which it may leave, or None if it is not filled in."""
        each = self.profile.find(name)
        if each is None:
            return None
        if self.mode == "off" or each.policy is FieldPolicy.OPEN:
            return self.clean(self._text_of(each))
        parts = [
            self._coarse(each, value) or self._tag(self._index_of[each.name, i], "")
            for i, value in enumerate(each.values)
        ]
        return Substitute(", ".join(parts), each.name)

    def _text_of(self, each: ProfileField) -> str:
        is_money = field_of(each.name).rupiah  # a model cannot know the unit of a bare number
        return ", ".join(
            rupiah(round(value)) if is_money and isinstance(value, int | float) else text_of(value, self.language)
            for value in each.values
        )

    def _coarse(self, each: ProfileField, value: Value) -> str | None:
        """Return the value made coarser, or None if it must be a tag.

        A town that is also another declared value becomes a tag. Bands and decades, which are the product's words,
        never do.
        """
        how = field_of(each.name).generaliser
        if each.policy is not FieldPolicy.QUASI or how is None:
            return None
        coarse = generalised(value, how, self.language)
        if coarse is None or how is not Generaliser.CITY:
            return coarse
        return None if any(found.index < self._declared for found in self.secrets.find(coarse)) else coarse

    def _declare(self, each: ProfileField) -> None:
        if each.policy is FieldPolicy.OPEN:
            return
        how = field_of(each.name).generaliser if each.policy is FieldPolicy.QUASI else None
        for i, value in enumerate(each.values):
            city = generalised(value, how, self.language) if how is Generaliser.CITY else None
            secret = Secret(each.name, field_of(each.name).tag, value)
            items = _items(secret)
            index = self.secrets.add(secret, [] if city is None else [city], only_whole=len(items) > 1)
            self._index_of[each.name, i] = index
            self._known.setdefault(compact(text_of(value)), index)
            if each.name == PRIVATE_WORDS and (word := visible(_normal(text_of(value)))):
                whole = SecretSpan(0, len(word), index)
                if whole not in self.secrets.find(word):
                    self._literal.setdefault(word, index)
            for item in items if len(items) > 1 else []:
                self.secrets.add(Secret(each.name, secret.tag, item))

    def _discover_in(self, view: NormalisedText) -> list[tuple[int, int, int]]:
        """Find values by pattern where no declared one is written. From now on a find is masked in this exact form."""
        found = [f for f in self.secrets.find(view) if not self.secrets.secrets[f.index].derived]
        declared = Stretches((f.start, f.end) for f in found)
        streets = _Streets(view.text, [f for f in found if self.secrets.secrets[f.index].tag == "ADDRESS"])
        return [
            (hit.start, hit.end, self._discover(view.text[hit.start : hit.end], hit.kind))
            for hit in map(streets.without_guessed_end, view.once(hits_in))
            if not (declared.meet if _ends_are_uncertain(hit, view.text) else declared.hold)(hit.start, hit.end)
            and not any(compact(view.text[hit.start : hit.end]) in value for value in self._opened)
            and not ((hit.start, hit.end) == (0, len(view.text)) and is_place(view.text))
        ]

    def _discover(self, value: str, kind: str) -> int:
        same = compact(value)
        if same not in self._known:
            # Beyond some hundred finds, each one is masked in its place only, and not sought elsewhere.
            sought = len(self.secrets.secrets) - self._declared < MAX_SOUGHT and _is_distinctive(value, kind)
            self._known[same] = self.secrets.add(Secret(kind, kind, value), exact=True, sought=sought)
        return self._known[same]

    def _tag(self, index: int, written: str) -> str:
        """Return the tag of a secret. Values of identifying kinds that differ only in spelling share one."""
        secret = self.secrets.secrets[index]
        value = written if secret.derived else text_of(secret.value, self.language)
        is_asked_for = self._asked is None or secret.field in self._asked
        kind = secret.tag if is_asked_for else neutral_kind(secret.tag)
        key = _key(secret.tag, value) if secret.derived or secret.tag in IDENTIFYING else f"{index}"
        if (kind, key) not in self._tag_of:
            self._tag_of[kind, key] = self._issue(kind, value)
        return self._tag_of[kind, key]

    def _issue(self, kind: str, value: str) -> str:
        while True:
            self._next[kind] = number = self._next.get(kind, 0) + 1
            name = f"{kind}_{number}"
            if name not in self._taken:
                break
        tag = f"[{name}]"
        self._values[tag] = value
        return tag

    def _is_declared(self, index: int) -> bool:
        """Return whether a secret is a value as the profile has it: neither found in a text nor a misspelt form."""
        return index < self._declared and not self.secrets.secrets[index].derived

    def _merged(self, found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """Merge overlapping stretches into one, under the tag of the most informative one.

        The longest one wins, and among equally long ones the first that is declared. If the longest is a found value,
        or a misspelt one, and a declared value of the same kind is in it, the first such one wins.
        """
        groups: list[list[tuple[int, int, int]]] = []
        last = -1
        for each in sorted(found):
            if each[0] < last:
                groups[-1].append(each)
            else:
                groups.append([each])
            last = max(last, each[1])
        merged = []
        for group in groups:
            chosen = min(group, key=lambda f: (f[0] - f[1], self.secrets.secrets[f[2]].derived, f[2]))[2]
            if not self._is_declared(chosen):  # declared ones stay: two people may share a part of their names
                kind = self.secrets.secrets[chosen].tag
                alike = [i for _, _, i in group if self._is_declared(i) and self.secrets.secrets[i].tag == kind]
                chosen = min(alike, default=chosen)
            merged.append((group[0][0], max(end for _, end, _ in group), chosen))
        return merged


class _Streets:
    """The declared streets in a text."""

    def __init__(self, text: str, streets: Sequence[SecretSpan]) -> None:
        self._text = text
        self._in_order = sorted((street.end, i) for i, street in enumerate(streets))  # sorted by their ends

    def without_guessed_end(self, hit: Hit) -> Hit:
        """Cut an address found by pattern at the end of the first declared street that only plain words follow."""
        if hit.kind != "ADDRESS" or not self._in_order:
            return hit
        plain = hit.end  # only plain words follow this position
        while plain > hit.start and _is_plain(self._text[plain - 1]):
            plain -= 1
        first = bisect.bisect_left(self._in_order, (max(plain, hit.start + 1), 0))
        last = bisect.bisect_left(self._in_order, (hit.end, 0))
        _, end = min(((i, end) for end, i in self._in_order[first:last]), default=(0, hit.end))
        return replace(hit, end=end)


def _ends_are_uncertain(hit: Hit, text: str) -> bool:
    """Return whether a hit may have words at its edges that are not personal. Capitalised names are taken whole."""
    return hit.guessed and not (hit.kind == "NAME" and text[hit.start : hit.end].istitle())


def _is_distinctive(value: str, kind: str) -> bool:
    """Return whether a found value is sought elsewhere: neither an age or the like, nor an everyday word."""
    if kind not in IDENTIFYING:
        return kind == "DATE" and len(value) > _SHORT_DATE
    return not (value.isalpha() and value.islower() and entry(plain(value)).frequency >= _EVERYDAY)


def _is_plain(char: str) -> bool:
    return char == char.casefold() and not char.isdigit()


def _items(secret: Secret) -> list[str]:
    """Return the items of a list that is written as one text: names, diagnoses, allergies."""
    if secret.tag not in ("NAME", "CHILD", "HEALTH") or not isinstance(secret.value, str):
        return []
    return [item for item in _ITEM_ENDS.split(secret.value) if item]


def _joined(pieces: Iterable[str | _Tag]) -> str:
    return "".join(p if isinstance(p, str) else p.tag for p in pieces)


def _key(tag: str, value: str) -> str:
    """Return the key by which values are equal: a phone's national digits, a number's signs, else a folded text.

    A folded text has neither case nor space.
    """
    if tag == "PHONE" and (digits := re.sub(r"\D", "", value)):
        return national(digits)
    if tag in ("ID", "CARD", "ACCOUNT", "NUMBER"):
        return compact(value)
    return "".join(unicodedata.normalize("NFKC", in_order(value)).casefold().split())


def _normal(text: str) -> str:
    """Normalise a text to NFC, with a line end for every sign that begins a line or a page."""
    return unicodedata.normalize("NFC", in_order(re.sub(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]", "\n", text)))


def visible(text: str) -> str:
    """Remove invisible signs: control and format characters, in which a secret could hide."""
    if text.translate(_LINES_AND_TABS).isprintable():
        return text
    kept = list[str]()
    for i, char in enumerate(text):
        category = unicodedata.category(char)
        if category == "Cc" and char not in "\n\t":
            continue
        if category in ("Cf", "Cs", "Co") and not "\ue000" <= char <= "\uf8ff":
            joins_emoji = char == "\u200d" and 0 < i < len(text) - 1 and not (text[i - 1] + text[i + 1]).isalnum()
            kept.append(char if joins_emoji else "")
        else:
            kept.append(char)
    return "".join(kept)


def whole_words(words: Iterable[str], *, any_case: bool = False) -> regex.Pattern[str]:
    """Return the pattern of words that are written as they are, or in any case, and are no parts of longer ones."""
    inside = r"[\p{L}\p{M}\p{N}]"
    pattern = rf"(?<!{inside})(?:{'|'.join(map(regex.escape, words))})(?!{inside})"
    return regex.compile(pattern, regex.IGNORECASE if any_case else 0)


def _without_issued_tags(text: str, issued: Collection[str]) -> str:
    """Rewrite tag-shaped text that came too late to be numbered past: ``[NAME_1]`` → ``NAME-1``, which is no tag."""
    if not issued:
        return text
    pattern = tag_pattern({name.rpartition("_")[0] for name in issued})
    return str(pattern.sub(lambda m: f"{m['kind']}-{m['number']}" if name_of(m) in issued else m[0], text))
