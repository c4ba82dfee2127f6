"""Search queries from a reply's words: ideas, an occasion, a budget, a city; in English and Indonesian.

Knows: lists as models write them, rupiah as people write them, words that say little about a product.
Does not know: products, people, the prompt. A tag such as ``[NAME_1]`` replaces a value that the cloud does not have,
so it is never a word here.

Any text is accepted, but only its first :data:`MAX_TEXT` characters are read. Budgets are whole rupiah.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import get_args

from llama.cloud.products import MAX_PRICE, Occasion
from llama.text.money import SCALES, number_of
from llama.text.printable import one_line

MAX_TEXT = 10_000  # characters; recommendations come earlier
MAX_IDEAS = 12  # of one reply
MAX_WORDS = 10  # of one idea
MAX_ITEM = 500  # characters shown of an idea

ORDINARY, ADJECTIVE, CONTAINER = 1.0, 0.4, 0.25  # weights of words
LATER = 0.5  # factor for words after the thing itself: "a mug with a picture of boots"

_STOP_EN = """
    a about after all also am an and any are as at be because been before being both but by can choose come could
    did do does each either enjoy every few find fit fits for from gave get gets give given gives go goes good great
    had has have he her here hers him his how i idea ideas if in into is it item items its just keep keeps know let
    like likes love lovely loves make makes many may me might more most much must my need needs nice no not of off
    on one only or other our out over own perfect perhaps please recommend recommended recommendation
    recommendations she should so some someone something such suggest suggested suggestion suggestions sure than
    that the their them then there these they thing things this those to too top try two under until up us use
    useful very want was way we well were what when where which while who will wish with within without would you
    your yours three four five six seven eight nine ten first second third next last budget price prices cost costs
    consider treat surprise surprised smile appreciate appreciates pick choice choices together gift gifts present
    presents product products option options buy offer offers city deliver delivered delivery occasion happy dear
    best regards day
""".split()
_STOP_ID = """
    ada adalah agar akan aku anda antara apa apakah atas atau bagi bagus banyak bahwa banget beberapa beli belum
    berada berbagai berikut berisi bisa boleh buat bukan cocok coba cukup dalam dan dapat dari daripada dengan di
    dia dong dulu hadiah hanya harga harganya harus hari ia ibarat ini itu itulah iya jadi jangan jika juga kado
    kalau kami kamu kan karena ke kepada kita lagi lain lalu lebih maka masing mau melalui membuat memberi
    memberikan memiliki mereka merupakan mungkin nah namun nanti nya oleh pada para paling perlu pilihan pun produk
    saat saja saling sama sambil sampai sangat saran sayang satu sebagai sebuah sebelum secara sedang sedikit
    sehingga sekali selain seluruh semoga semua senang seorang seperti sepasang serta sesuai sesuatu setelah setiap
    si sih suatu sudah suka supaya tapi telah tentang terbaik tersebut tetap tetapi tiga dua empat lima enam tujuh
    delapan sembilan sepuluh tidak tiap sarankan kirimkan berikan belikan rekomendasi rekomendasikan pertimbangkan
    bersama pilih toh untuk untukmu untuknya yaitu yang yuk anggaran biaya kota kirim dikirim acara ide barang
    istimewa spesial
""".split()
_MONEY_WORDS = """
    rp idr rupiah ribu rb juta jt k million thousand maks maksimal maximum max minimal minimum below less hingga kurang
    bawah sekitar kisaran around between least up
""".split()
STOP_WORDS = frozenset([*_STOP_EN, *_STOP_ID, *_MONEY_WORDS])

# Words for containers or amounts. Alone they are no reason to offer a product.
CONTAINERS = frozenset(
    """
    basket baskets box boxes bundle bundles case cases collection crate jar jars kit kits pack package packs pair pairs
    piece pieces set sets starter tin trio
    alat isi kaleng keranjang koleksi kotak paket pasang perangkat perlengkapan peti stoples
""".split()
)
# Words for properties. They help to choose among products of a kind, and alone are no reason either.
ADJECTIVES = frozenset(
    """
    beautiful beginner beginners big black blue classic colourful colorful comfortable compact custom customised
    customized cute cosy cozy durable elegant fancy fresh fun fine green handmade home kids large lightweight
    local long luxury men mens mini modern natural new office old personal personalised personalized portable
    practical premium pretty quality red refillable reusable short simple small soft special sturdy stylish sweet
    traditional unique vintage warm white women womens wooden wood alami anak asli awet bagus baru berkualitas besar
    biru buatan cantik elegan hangat hijau hitam indah kayu kecil khas khusus kuat kustom lembut lokal lucu
    manis menarik merah mewah mungil nyaman panjang pemula portabel praktis pria putih ringan ringkas rumah
    sederhana segar tangan tradisional unik wanita
""".split()
)

# Names of occasions, separated by "|", as a phrase may have several words. A name that is also a kind of product
# ("travel", "office") is an occasion here and an ordinary word for the search.
_OCCASIONS: Mapping[Occasion, str] = {
    "anniversary": "(?:wedding )?anniversary|anniversaries|ulang tahun (?:pernikahan|perkawinan)"
    "|hari jadi(?: pernikahan)?",
    "birthday": "birthdays?|b-?day|ulang[ -]?tahun|ultah|milad",
    "wedding": "weddings?|newly-?weds?|bride|groom|pernikahan|perkawinan|menikah|nikahan|pengantin",
    "graduation": "graduations?|graduates?|graduating|graduated|wisuda|wisudawan|wisudawati|kelulusan|lulus",
    "housewarming": "house-?warming|new (?:home|house|flat|apartment)|(?:pindah(?:an)?|syukuran) rumah|rumah baru",
    "new-baby": "new[- ]?baby|new-?born|baby shower|new parents?|kelahiran|bayi(?: yang)? baru(?: lahir)?"
    "|bayi lahir|aqiqah",
    "eid": "eid(?: al-?fitr)?|eid-ul-fitr|idul ?fitri|lebaran|ramadh?an|hari raya(?! natal| imlek)",
    "christmas": "christmas|xmas|natal",
    "lunar-new-year": "lunar[ -]new[ -]year|chinese[ -]new[ -]year|imlek|sincia",
    "valentine": "valentine(?:['’]?s)?(?: day)?|hari kasih sayang|valentin",
    "mothers-day": "mother(?:['’]?s)?['’]?[ -]day|mothers-day|hari ibu",
    "farewell": "farewells?|leaving (?:party|gift|present|do)|good-?bye|perpisahan",
    "corporate": "corporate|company|companies|employees?|colleagues?|co-?workers?|clients?|perusahaan|karyawan"
    "|kolega|rekan kerja|klien",
    "thank-you": "thank[- ]?yous?|gratitude|appreciation|terima ?kasih",
    "get-well": "get[ -]well(?: soon)?|recover[ys]?|recovering|lekas sembuh|cepat sembuh|semoga sembuh|sembuh",
    "travel": "travel(?:l?ing|l?er|l?ers|s)?|trips?|journeys?|on holiday|vacations?|perjalanan|liburan|bepergian"
    "|jalan-jalan|traveling",
}
_OCCASION = re.compile(
    r"\b(?:" + "|".join(f"(?P<o{i}>{names})" for i, names in enumerate(_OCCASIONS.values())) + r")(?:nya|mu)?\b",
    re.IGNORECASE,
)
_OCCASION_NAMES: tuple[Occasion, ...] = tuple(_OCCASIONS)
# Words of a feast. A product's occasions already match them, so as words they have a low weight.
FEASTS = frozenset(
    """
    birthday birthdays ulang tahun ultah milad anniversary anniversaries hari jadi wedding pernikahan perkawinan menikah
    graduation graduations graduate wisuda kelulusan housewarming eid fitr idul fitri lebaran ramadan ramadhan raya
    christmas xmas natal lunar year chinese imlek valentine valentines mother mothers ibu farewell perpisahan thank
    thanks terima kasih kasihsayang get soon lekas sembuh
""".split()
)

# Synonyms: other spellings and names of the same thing. The search treats the words of a group as equal.
_SPELLINGS = """
    jewelry jewellery|watercolor watercolour|watercolors watercolours|color colour|colors colours|colored coloured
    |coloring colouring|gray grey|pajamas pyjamas|organizer organiser|scented fragrance aromatherapy|flask bottle
    |sneakers shoes|earphones earbuds|rucksack backpack|wristwatch watch|earrings studs|cookies biscuits|mug cup
    |pitcher jug|cologne perfume|notebook journal|plushie plush|stroller pram|hampers parcel|smartwatch smartband
    |kaos kaus|coklat cokelat|toples stoples|espresso espreso|parsel parcel bingkisan hampers|pulpen pena bolpoin
    |tumbuhan tanaman|gelas cangkir|mug cangkir|syal selendang|headset headphone|buket bouquet|kukis kue
    |sejadah sajadah|handphone ponsel|kopor koper
"""
_SAME: dict[str, set[str]] = {}
for _group in (group.split() for group in _SPELLINGS.split("|")):
    for _one in _group:
        _SAME.setdefault(_one, set()).update(word for word in _group if word != _one)

# After these words, an item describes the thing or its purpose.
_BEHIND = frozenset(
    """
    for with from that which who to in on by at so while without inspired
    untuk dengan yang dari agar supaya di ke saat berisi bagi tanpa bertema
""".split()
)
_OWNERS = frozenset({"your", "his", "her", "their", "my", "our"})
# A clause with this beginning is a reason or a recipient. It may name things that are not recommended.
_ASIDE = re.compile(r"\A\s*(?:for|because|since|if|when|as|untuk|bagi|karena|sebab|jika|kalau)\b", re.IGNORECASE)
# "menyelam" is "selam", "berkebun" is "kebun": prefixes of Indonesian verbs, and the letters that they replace.
_VERBS = {"meny": ("s",), "meng": ("", "k"), "mem": ("", "p"), "men": ("", "t"), "me": ("",), "ber": ("",)}

_TAG = re.compile(r"\[\s?\w{1,20}[\s_-]{1,3}\d{1,4}\s?\]?|\[?\b[^\W\d_]{2,20}_\d{1,4}\b\]?")
_WORD = re.compile(r"[^\W_]{1,40}")

_BULLETS = "-*+•·‣▪◦●○–—✅✔➡👉🎁"
_LINE = re.compile(
    rf"(?P<indent>[ \t]{{0,20}})(?:#{{1,6}}[ \t]+|>[ \t]?)?(?P<bold>\*\*|__)?"
    rf"(?:(?:(?P<number>\d{{1,5}})(?:\\?[.)](?!\d)|\ufe0f?\u20e3)|\((?P<round>\d{{1,5}})\))[ \t]*"
    rf"|(?P<bullet>[{re.escape(_BULLETS)}])\ufe0f?[ \t]+)(?P<text>\S.*)"
)
_BOLD = re.compile(r"^(?:\*\*|__)(.{1,200}?)(?:\*\*|__)")
_EXPLANATION = re.compile(r":(?=\s|$)|\s[-–—]{1,2}\s|[-–—]{2}|\s→\s|\s=>\s")
_MARKUP = re.compile(r"\[([^\[\]]{1,200})\]\([^()\s]{1,500}\)|[*`#]{1,3}|__|https?://\S{1,500}|www\.\S{1,500}")
_CLAUSE = re.compile(
    # Starts only at the first of several signs, and is possessive. Otherwise a long row is quadratic.
    r"(?<![.!?;:,()\[\]{}\"“”|])[.!?;:,()\[\]{}\"“”|]++(?=\s|$)|\s[-–—]{1,2}\s|\b(?:and|or|plus|dan|atau|serta)\b"
    r"|(?=\b(?:because|since|karena|sebab)\b)",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"\A\s*[^\W\d_][\w -]{0,30}:\s+(.*)")

_NUMBER = r"\d{1,3}(?:[.,]\d{3}){1,3}(?!\d)|\d{1,13}(?:[.,]\d{1,2})?(?!\d)"
_UNIT = r"ribu(?:an)?|rb|k|thousand|juta(?:an)?|jt|million|mio"
_AMOUNT = rf"(?:(?:Rp\.?|IDR)\s{{0,2}})?(?:{_NUMBER})(?:\s{{0,2}}(?:{_UNIT})\b)?(?:,-)?(?:\s{{0,2}}(?:rupiah|IDR)\b)?"
_MOST = (
    r"up to|no more than|not more than|at most|less than|cheaper than|maximum(?: of)?|max\.?|under|below|within"
    r"|budget(?:nya)?(?: is| of)?|di ?bawah|paling (?:banyak|mahal)|maksimal|maksimum|maks\.?"
    r"|tidak (?:lebih dari|sampai)|kurang dari|sampai(?: dengan)?|hingga|anggaran(?:nya)?|bujet|dana|s/d|≤|<"
)
_LEAST = (
    r"at least|more than|over|above|from|minimum(?: of)?|min\.?|minimal|paling (?:sedikit|murah)|di ?atas|lebih dari"
    r"|mulai(?: dari)?|≥|>"
)
_ABOUT = r"around|about|roughly|approximately|some|circa|sekitar|kira-kira|kisaran|±|~"
_AT_MOST = r"(?:or|and) (?:less|under|below)|at (?:the )?most|max(?:imum)?|maks(?:imal)?|ke bawah"
_BETWEEN = r"between|from|ranging from|antara|dari|kisaran|mulai(?: dari)?"
_TO = r"\s{0,2}(?:-|–|—|to|and|s/d|sampai(?: dengan)?|hingga|dan)\s{0,2}"
# "budget: X", "a total of X", "anggaran sebesar X"; short, so that matching stays fast.
_LINK = r"\s{0,2}[:=]?\s{0,2}(?:(?:a|the|total|budget|anggaran|harga|of|is|adalah|sebesar|per (?:person|orang)) ){0,3}"
_BUDGET = re.compile(
    rf"(?:\b(?:{_BETWEEN})\s+)?(?P<low>{_AMOUNT}){_TO}(?P<high>{_AMOUNT})"
    rf"|(?<![^\W\d])(?:(?P<most>{_MOST})|(?P<least>{_LEAST})|(?P<about>{_ABOUT})){_LINK}(?P<amount>{_AMOUNT})"
    rf"|(?P<before>{_AMOUNT})\s{{0,2}}(?:{_AT_MOST})\b",
    re.IGNORECASE,
)
_PARTS = re.compile(
    rf"(?P<sign>Rp\.?|IDR)?\s{{0,2}}(?P<number>{_NUMBER})(?:\s{{0,2}}(?P<unit>{_UNIT})\b)?(?:,-)?\s{{0,2}}(?P<after>rupiah|IDR)?",
    re.IGNORECASE,
)

# Other names of cities than those in catalogues.
_CITY_ALIASES = {"jogja": "yogyakarta", "yogya": "yogyakarta", "jogjakarta": "yogyakarta", "solo": "surakarta"}
# City names that are also words. They count only after a preposition of place.
_AMBIGUOUS = frozenset({"solo", "batu", "malang", "padang", "banda", "pare", "tegal", "kediri", "pati", "blora"})
_BEFORE_PLACES = frozenset(
    {"in", "to", "near", "around", "from", "at", "di", "ke", "dari", "kota", "wilayah", "daerah"}
)


@dataclass(frozen=True)
class Budget:
    """A range of prices in whole rupiah.

    Attributes:
        least: lowest price; 0 if the text has none.
        most: highest price, or None.
        written: the words in the text.
    """

    least: int
    most: int | None
    written: str


@dataclass(frozen=True)
class Idea:
    """One recommended thing.

    Attributes:
        item: the idea as shown, one line; empty if the reply has no list.
        words: search words with their weights: 1 for most, less for "set" or "small".
        budget: of this idea alone, or None.
        occasions: occasions that this idea names, with their words in the text.
        aside: whether the clause is rather a reason or a recipient.
    """

    item: str
    words: Mapping[str, float]
    budget: Budget | None = None
    occasions: Mapping[Occasion, str] = field(default_factory=dict)
    aside: bool = False


@dataclass(frozen=True)
class Query:
    """A search query made from a reply.

    Attributes:
        ideas: in their order.
        listed: True if the ideas are items of a list. Otherwise they are clauses of a text, and most are no ideas.
        budget: of the whole reply, or None.
        occasions: occasions that the reply names, with their words in the text.
        city: case-folded, as in the catalogue; or empty.
        city_written: the city's name in the text.
    """

    ideas: tuple[Idea, ...]
    listed: bool
    budget: Budget | None
    occasions: Mapping[Occasion, str]
    city: str
    city_written: str


def query_of(text: str, cities: Collection[str]) -> Query:
    """Return the search query for ``text``.

    Args:
        text: a reply, with tags in it.
        cities: case-folded names of all cities to look for.
    """
    text = text[:MAX_TEXT]
    items, rest = _first_list(text)
    if items:
        ideas = [_idea_of(item) for item in items[:MAX_IDEAS]]
    else:
        rest = text
        clauses = (Idea("", words_in(clause), aside=bool(_ASIDE.match(clause))) for clause in _clauses(text))
        ideas = list(islice((idea for idea in clauses if ORDINARY in idea.words.values()), MAX_IDEAS))
    return Query(tuple(ideas), bool(items), budget_in(rest), occasions_in(rest), *_city_in(text, cities))


def words_in(text: str) -> dict[str, float]:
    """Return the search words of a text in lower case and their order, with their weights."""
    words: dict[str, float] = {}
    behind = False
    every = list(map(str.lower, _WORD.findall(_MONEY.sub(" ", _TAG.sub(" ", _MARKUP.sub(_link_text, text))))))
    for word, following in pairwise([*every, ""]):
        if word in _BEHIND or (word == "of" and following in _OWNERS):
            behind = ORDINARY in words.values()
        if len(word) > 5:
            word = word.removesuffix("nya")  # "his", "her", "the"
        if word in STOP_WORDS or len(word) < 2 or word[0].isdecimal() or word in words:
            continue
        says = CONTAINER if word in CONTAINERS | FEASTS else ADJECTIVE if word in ADJECTIVES else ORDINARY
        words[word] = says * (LATER if behind else 1)
        if len(words) == MAX_WORDS:
            break
    return words


def spellings_of(words: Iterable[str]) -> dict[str, list[str]]:
    """Return equivalents for some of the words: another spelling, another name, the stem of a verb."""
    return {word: others for word in words if (others := [*sorted(_SAME.get(word, ())), *_under(word)])}


_NO_VERBS = frozenset({"beruang", "berlian", "merek", "mesin", "menteri", "mentega", "menara"})


def _under(verb: str) -> list[str]:
    if verb in _NO_VERBS:
        return []
    for prefix, begins in _VERBS.items():
        if verb.startswith(prefix) and len(verb) >= len(prefix) + 4:
            return [begin + verb.removeprefix(prefix) for begin in begins]
    return []


def occasions_in(text: str) -> dict[Occasion, str]:
    """Return the occasions that a text names, in their order, with its words for them."""
    found: dict[Occasion, str] = {}
    for match in _OCCASION.finditer(_TAG.sub(" ", text)):
        found.setdefault(_OCCASION_NAMES[int((match.lastgroup or "o0")[1:])], _line(match[0]))
    return found


def budget_in(text: str) -> Budget | None:
    """Return the first budget that a text names: an amount of rupiah with a bound, such as "up to Rp 400.000"."""
    for match in _BUDGET.finditer(text):
        budget = _budget_of(match)
        if budget is not None:
            return budget
    return None


def _budget_of(match: re.Match[str]) -> Budget | None:
    written = _line(match[0])
    if match["high"]:
        high, unit = _rupiah(match["high"], signed=_is_money(match["low"]))
        low, _ = _rupiah(match["low"], unit, signed=_is_money(match["high"]))
        return Budget(low, high, written) if low and high and low <= high else None
    amount, _ = _rupiah(match["amount"] or match["before"])
    if not amount:
        return None
    if match["most"] or match["before"]:
        return Budget(0, amount, written)
    if match["least"]:
        return Budget(amount, None, written)
    return Budget(amount * 7 // 10, amount * 13 // 10, written)


def _is_money(amount: str) -> bool:
    parts = _PARTS.fullmatch(amount.strip())
    return parts is not None and bool(parts["sign"] or parts["unit"] or parts["after"])


def _rupiah(amount: str, unit: str = "", *, signed: bool = False) -> tuple[int, str]:
    """Return an amount in whole rupiah, or 0 if it is not money, and its unit in the text.

    Args:
        amount: such as ``Rp 1,5 juta``.
        unit: unit of the following amount, as in "100 to 200 ribu".
        signed: True if the amount beside it is money, so that this one is, too.
    """
    parts = _PARTS.fullmatch(amount.strip())
    if parts is None or not (signed or _is_money(amount)):
        return 0, ""
    digits = parts["number"]
    unit = (parts["unit"] or (unit if len(digits) <= 3 else "")).lower().removesuffix("an")
    value = number_of(digits) or 0.0
    if not unit:
        value = math.floor(value)  # without a unit, decimals are fractions of a rupiah
    return min(round(value * SCALES.get(unit, 1)), MAX_PRICE), unit


_MONEY = re.compile(
    rf"(?:Rp\.?|IDR)\s{{0,2}}(?:{_NUMBER})(?:\s{{0,2}}(?:{_UNIT})\b)?|(?:{_NUMBER})\s{{0,2}}(?:{_UNIT})\b",
    re.IGNORECASE,
)


def _idea_of(item: str) -> Idea:
    """Return the idea of a list's item: its head, without the explanation."""
    bold = _BOLD.match(item)
    head = bold[1] if bold and words_in(bold[1]) else _EXPLANATION.split(item, maxsplit=1)[0]
    head = _EXPLANATION.split(head, maxsplit=1)[0]
    words = words_in(head)
    if not words:  # "For him: a tea set"
        head, words = item, words_in(item)
    return Idea(_line(_MARKUP.sub(_link_text, head)).strip(" .,;:"), words, budget_in(item), occasions_in(item))


def _link_text(match: re.Match[str]) -> str:
    """Return a link's text; nothing for other markup or a bare address."""
    return match[1] or ""


def _line(text: str) -> str:
    """Return text as one printable line, without control characters and lone surrogates."""
    return " ".join(one_line(text, " ").split())[:MAX_ITEM]


def _first_list(text: str) -> tuple[list[str], str]:
    """Return the items of a text's first list, and the text without it. A single bullet is no list."""
    lines, start = text.splitlines(), 0
    while start < len(lines):
        begun = _LINE.fullmatch(lines[start])
        if begun is None:
            start += 1
            continue
        items, end = _list_at(lines, start, begun)
        if len(items) > 1 or not begun["bullet"]:
            return items, "\n".join([*lines[:start], *lines[end:]])
        start += 1
    return [], text


def _list_at(lines: list[str], start: int, begun: re.Match[str]) -> tuple[list[str], int]:
    """Return the items of the list that begins at a line, and the index of the line after it.

    Deeper items and the lines between are explanations. A numbered list continues after them as long as its numbers
    grow. A bulleted list ends at a paragraph.
    """
    items, end, number, blank, plain = list[str](), start, None, False, False
    for at in range(start, len(lines)):
        line = lines[at]
        match = _LINE.fullmatch(line)
        if match is not None and _same_kind(match, begun):
            following = _number_of(match)
            if number is not None and following is not None and following <= number and (following != 1 or plain):
                break
            items.append(_item_text(match))
            number, end, blank, plain = following, at + 1, False, False
        elif not line.strip():
            blank = True
        elif match is None and not line[0].isspace():
            plain = True
            if blank and begun["bullet"]:
                break
    return items, end


def _same_kind(match: re.Match[str], begun: re.Match[str]) -> bool:
    if bool(match["bullet"]) != bool(begun["bullet"]):
        return False
    return len(match["indent"]) <= len(begun["indent"]) + 1


def _number_of(match: re.Match[str]) -> int | None:
    number = match["number"] or match["round"]
    return None if number is None else int(number)


def _item_text(match: re.Match[str]) -> str:
    # In "**1. Tea set**: …" bold begins before the number.
    return (match["bold"] or "") + match["text"].strip()


def _clauses(text: str) -> Iterable[str]:
    """Yield the clauses of a text; of lines such as "drink: green tea" only the part after the label."""
    lines = text.splitlines()
    labelled = [_LABELLED.fullmatch(line) for line in lines]
    if sum(match is not None for match in labelled) > 1:
        lines = [match[1] if match else line for match, line in zip(labelled, lines, strict=True)]
    for line in lines:
        yield from _CLAUSE.split(line)


def _city_in(text: str, cities: Collection[str]) -> tuple[str, str]:
    """Return the first city that a text names: the catalogue's name, and the text's."""
    text = _TAG.sub(" ", text)
    words = list(_WORD.finditer(text))
    longest = min(max((name.count(" ") for name in cities), default=0) + 1, 4)
    for i, word in enumerate(words):
        for length in range(min(longest, len(words) - i), 0, -1):
            written = text[word.start() : words[i + length - 1].end()]
            name = written.casefold()
            city = _CITY_ALIASES.get(name, name)
            if city not in cities:
                continue
            before = words[i - 1][0].lower() if i else ""
            if before in _BEFORE_PLACES or (written[0].isupper() and name not in _AMBIGUOUS):
                return city, _line(written)
    return "", ""


assert set(_OCCASIONS) == set(get_args(Occasion)), "an occasion has no names"
