"""THE BOUNDARY: the only file that turns the person's words into words that may leave the device.

Two rings. *Declared*: every value of the profile that is not open, in all its written forms, becomes a tag such as
``[NAME_1]``. *Patterns*: what ``llama.privacy.patterns`` finds beyond that. The same value gets the same tag throughout
a session, also where only a part of a name is written. Tags are numbered past any tag-shaped text that the sheet or the
person has written, so that such text never equals an issued tag, and nobody's text needs rewriting for it.

Only :class:`Sanitiser` makes :class:`CleanText`, and ``llama.privacy.merging`` accepts nothing else of the person's.
The map from tags to values lives here, in memory, for one session. Nothing here opens a file or a socket.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from llama.privacy.forms import Index, Secret, TextView, compact
from llama.privacy.generalise import generalised
from llama.privacy.patterns import hits_in
from llama.privacy.policy import FieldPolicy, field_of
from llama.privacy.profile import Profile, ProfileField, Value, text_of
from llama.privacy.tags import name_of, tag_pattern, tags_written_in

Mode = Literal["schema", "off"]
MODES: tuple[Mode, ...] = ("schema", "off")


@dataclass(frozen=True)
class CleanText:
    """Words of the person's that may leave. Made by :class:`Sanitiser` only. They do not print."""

    text: str = field(repr=False)


class Sanitiser:
    """One session's boundary.

    Args:
        profile: what is declared.
        mode: ``schema``, or ``off``: everything passes as it is.
        reserved: other people's texts of this session; tags that they write are not issued.
        own: the person's own texts that will be cleaned, so that what is found in one is known in all.
        language: of what is generalised, ``en`` or ``id``.
    """

    def __init__(
        self, profile: Profile, mode: Mode = "schema", *, reserved: Iterable[str] = (), own: Iterable[str] = (),
        language: str = "en",
    ) -> None:  # fmt: skip
        self.profile, self.mode, self.language = profile, mode, language
        self.secrets = Index()
        self._values: dict[str, str] = {}  # tag → what it stands for
        self._tag_of: dict[int, str] = {}  # index of a secret → its tag
        self._known: dict[str, int] = {}  # compact form of a value → index of its secret
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}
        if mode == "off":
            return
        fields = profile.fields.values()
        texts = [*own, *(self._text_of(each) for each in fields if each.policy is FieldPolicy.OPEN)]
        for text in (*reserved, *texts):
            self._taken |= tags_written_in(text)
        for each in fields:
            self._declare(each)
        for text in texts:
            self._discover_in(TextView(visible(text)))

    def __repr__(self) -> str:
        return f"Sanitiser(mode={self.mode!r}, {len(self._values)} tags)"

    @property
    def tags(self) -> Mapping[str, str]:
        """Issued tags, each with what it stands for. For the device's own screen only."""
        return self._values

    def clean(self, text: str) -> CleanText:
        """The person's own words, with a tag for each secret."""
        if self.mode == "off":
            return CleanText(text)
        text = _without_issued_tags(visible(text), {tag.strip("[]") for tag in self._values})
        view = TextView(text)
        hits = self._discover_in(view)
        found = [(f.start, f.end, f.index) for f in self.secrets.find(view)]
        out, position = list[str](), 0
        for start, end, index in _merged([*found, *hits]):
            out += [text[position:start], self._tag(index)]
            position = end
        return CleanText("".join([*out, text[position:]]))

    def field_text(self, name: str) -> CleanText | None:
        """A field of the profile in the form in which it may leave, or None if it is not filled in."""
        each = self.profile.fields.get(name)
        if each is None:
            return None
        if self.mode == "off" or each.policy is FieldPolicy.OPEN:
            return self.clean(self._text_of(each))
        parts = []
        for value in each.values:
            coarse = self._coarse(each, value)
            parts.append(self._tag(self._index_of(each, value)) if coarse is None else self.clean(coarse).text)
        return CleanText(", ".join(parts))

    def _text_of(self, each: ProfileField) -> str:
        return ", ".join(text_of(value, self.language) for value in each.values)

    def _coarse(self, each: ProfileField, value: Value) -> str | None:
        """The value made coarser, or None where it must be a tag."""
        how = field_of(each.name).generaliser
        return generalised(value, how, self.language) if each.policy is FieldPolicy.QUASI and how is not None else None

    def _declare(self, each: ProfileField) -> None:
        if each.policy is FieldPolicy.OPEN:
            return
        for value in each.values:
            coarse = self._coarse(each, value)
            secret = Secret(each.name, field_of(each.name).tag, value)
            index = self.secrets.add(secret, [] if coarse is None else [coarse])
            self._known.setdefault(compact(text_of(value)), index)

    def _index_of(self, each: ProfileField, value: Value) -> int:
        return next(i for i, s in enumerate(self.secrets.secrets) if (s.field, s.value) == (each.name, value))

    def _discover_in(self, view: TextView) -> list[tuple[int, int, int]]:
        """What patterns find where nothing declared is written; known from now on wherever it is written just so."""
        declared = self.secrets.find(view)
        return [
            (hit.start, hit.end, self._discover(view.text[hit.start : hit.end], hit.kind))
            for hit in hits_in(view)
            if not any(f.start <= hit.start and hit.end <= f.end for f in declared)
        ]

    def _discover(self, value: str, kind: str) -> int:
        same = compact(value)
        if same not in self._known:
            self._known[same] = self.secrets.add(Secret(kind, kind, value), exact=True)
        return self._known[same]

    def _tag(self, index: int) -> str:
        secret = self.secrets.secrets[index]
        if index not in self._tag_of:
            same = compact(text_of(secret.value))
            twin = next((i for i in self._tag_of if compact(text_of(self.secrets.secrets[i].value)) == same
                         and self.secrets.secrets[i].tag == secret.tag), None)  # fmt: skip
            self._tag_of[index] = self._issue(secret) if twin is None else self._tag_of[twin]
        return self._tag_of[index]

    def _issue(self, secret: Secret) -> str:
        while True:
            self._next[secret.tag] = number = self._next.get(secret.tag, 0) + 1
            name = f"{secret.tag}_{number}"
            if name not in self._taken:
                break
        tag = f"[{name}]"
        self._values[tag] = text_of(secret.value, self.language)
        return tag


def visible(text: str) -> str:
    """Without what is written but not seen: control and format characters, in which a secret could hide."""
    kept = list[str]()
    for i, char in enumerate(text):
        category = unicodedata.category(char)
        if category == "Cc" and char not in "\n\t":
            kept.append("\n" if char == "\r" and text[i + 1 : i + 2] != "\n" else "")
        elif category == "Cf" or category == "Cs":
            joins_emoji = char == "\u200d" and 0 < i < len(text) - 1 and not (text[i - 1] + text[i + 1]).isalnum()
            kept.append(char if joins_emoji else "")
        else:
            kept.append(char)
    return "".join(kept)


def _without_issued_tags(text: str, issued: Collection[str]) -> str:
    """Tag-shaped text that came too late to be numbered past: ``[NAME_1]`` → ``NAME-1``, which no tag is."""
    if not issued:
        return text
    pattern = tag_pattern({name.rpartition("_")[0] for name in issued})
    return str(pattern.sub(lambda m: f"{m['kind']}-{m['number']}" if name_of(m) in issued else m[0], text))


def _merged(found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Stretches that overlap become one, under the longest one's tag; of equals the one declared first."""
    groups: list[list[tuple[int, int, int]]] = []
    for each in sorted(found):
        if groups and each[0] < max(end for _, end, _ in groups[-1]):
            groups[-1].append(each)
        else:
            groups.append([each])
    merged = []
    for group in groups:
        longest = min(group, key=lambda f: (f[0] - f[1], f[2]))
        merged.append((group[0][0], max(end for _, end, _ in group), longest[2]))
    return merged
