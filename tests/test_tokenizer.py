"""The tokenizer against the facts about Llama 3, the `tokenizers` library and UTF-8 itself."""

from __future__ import annotations

import base64
import json
import random
import unicodedata
from pathlib import Path

import gguf
import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers
from transformers.convert_slow_tokenizer import TikTokenConverter

from llama.checkpoint import vocabulary
from llama.checkpoint.gguf_reading import GGUFFile
from llama.errors import TokenizerError
from llama.tokenizer import (
    MAX_RUN_CHARS,
    META_PATTERN,
    SMOLLM_PATTERN,
    StreamDecoder,
    Tokenizer,
    _split_long,
    meta_special_tokens,
    parse_ranks,
)

TEXTS = [
    "",
    " ",
    "Kado ulang tahun untuk adik saya yang suka memasak, anggarannya Rp 300.000,- saja ya!",
    "Dia bertanya: 'Apa kabar?' Lalu mereka berjalan-jalan ke Yogyakarta pada 17-08-1945.",
    "مرحبًا بالعالم، كيف حالك اليوم؟ ٠١٢٣٤٥٦٧٨٩",
    "สวัสดีชาวโลก วันนี้อากาศดีมาก ๑๒๓",
    "今天天气很好，我们去公园散步吧。「東京」は２０２０年。",
    "नमस्ते दुनिया, आप कैसे हैं? १२३",
    "Здравствуй, мир! Γειά σου Κόσμε. שלום עולם 안녕하세요 세계",
    "Tiếng Việt có nhiều dấu: ngoại, nghiệp, nhiều, việc",
    "👩‍👩‍👧‍👦 👍🏽 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 🇮🇩 ❤️‍🔥 🙂",
    "a" + " " * 300 + "b" + "\n" * 40 + "\t" * 17 + " \n \r\n  x   ",
    "  1   22    333 \t4\n5 \u00a06\u30007\u2028 8",
    "0 1 12 123 1234 12345 3.14159 1e-9 0xFF ² ½ Ⅷ ٣ ④ \U0001d7d8 x²+y²",
    "I'm you're WE'LL they'd it's o'clock 'tis I'M 's1 1's ' s",
    "def f(x):\n    return {k: v for k, v in x.items()}  # dict\n\tif (a!=b) && c->d[0]: i++;",
    "<|im_start|>system\n<|eot_id|><|begin_of_text|><|endoftext|>",
    "zero\u200bwidth\u200djoiner\ufeffbom soft\u00adhyphen \u0301combining e\u0301\u0302",
    "control \x00\x01\x02\x03\x05\x07\x08\x0b\x0c\x0e\x1b\x1c\x1f\x7f\x85 end",
    "missing\x04byt\x06es\x13\x14 \x16\x1d1\x1d a\x04\x04b '\x04s \U00050000x\U00090000",
]

# Letters and digits newer than Python's Unicode tables are left out: each library has tables of its own age.
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"])
TRICKY = st.sampled_from(
    [*" \t\n\r'1aé½²٣ '\u3000\u0085\x1c\x1d\x04!", "'s", "'LL", "\r\n", "  ", "🙂", "क्", "<|im_end|>"]
)
STRINGS = st.one_of(st.text(ASSIGNED, max_size=60), st.lists(TRICKY, max_size=30).map("".join))


def written(path: Path, *tokens: bytes) -> Path:
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(t), i) for i, t in enumerate(tokens)))
    return path


@pytest.fixture(scope="module")
def llama3(llama3_tokenizer: Path) -> Tokenizer:
    return Tokenizer(llama3_tokenizer)


@pytest.fixture(scope="module")
def llama3_oracle(llama3_tokenizer: Path) -> tokenizers.Tokenizer:
    """Hugging Face's own conversion of Meta's file, with its own copy of the pattern."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        converter = TikTokenConverter(str(llama3_tokenizer))  # type: ignore[no-untyped-call]
        oracle: tokenizers.Tokenizer = converter.converted()
    return oracle


@pytest.fixture(scope="module")
def smollm2_source(smollm2_gguf: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(smollm2_gguf)


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    v = vocabulary.from_gguf(GGUFFile(smollm2_gguf), "a.gguf")
    path = tmp_path_factory.mktemp("smollm2") / "tokenizer.model"
    path.write_bytes(v.model)
    return Tokenizer(path, special_tokens=v.special_tokens, pattern=v.pattern)


@pytest.fixture(scope="module")
def smollm2_oracle(smollm2_source: gguf.GGUFReader) -> tokenizers.Tokenizer:
    tokens = smollm2_source.fields["tokenizer.ggml.tokens"].contents()
    merges = smollm2_source.fields["tokenizer.ggml.merges"].contents()
    bpe = models.BPE({token: id for id, token in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges])
    oracle = tokenizers.Tokenizer(bpe)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    oracle.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return oracle


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, bos=False, eos=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is a test sentence.", [2028, 374, 264, 1296, 11914, 13]),
        ("This is a response.", [2028, 374, 264, 2077, 13]),
        ("Hello, world!", [9906, 11, 1917, 0]),
        ("system", [9125]),
        ("user", [882]),
        ("assistant", [78191]),
        ("\n\n", [271]),
        ("日本語 émoji 🙂", [102433, 102158, 4046, 6489, 7910, 28584]),
        ("<|eot_id|>", [27, 91, 68, 354, 851, 91, 29]),
    ],
)
def test_the_real_llama3_tokenizer_gives_the_published_ids(llama3: Tokenizer, text: str, expected: list[int]) -> None:
    """Ids known from Meta's releases, and back."""
    assert ids(llama3, text) == expected
    assert llama3.encode(text, bos=True, eos=True) == [128000, *expected, 128001]
    assert llama3.decode(expected) == text


def test_the_real_llama3_tokenizer_has_metas_special_tokens(llama3: Tokenizer) -> None:
    """The ids that released checkpoints were trained with."""
    assert llama3.n_words == 128256
    assert (llama3.bos_id, llama3.eos_id, llama3.pad_id) == (128000, 128001, -1)
    assert llama3.stop_tokens == {128001, 128008, 128009}
    known = {
        "<|begin_of_text|>": 128000,
        "<|end_of_text|>": 128001,
        "<|reserved_special_token_0|>": 128002,
        "<|finetune_right_pad_id|>": 128004,
        "<|start_header_id|>": 128006,
        "<|end_header_id|>": 128007,
        "<|eom_id|>": 128008,
        "<|eot_id|>": 128009,
        "<|python_tag|>": 128010,
        "<|reserved_special_token_2|>": 128012,
        "<|reserved_special_token_245|>": 128255,
    }
    assert known.items() <= llama3.special_tokens.items()
    assert sorted(llama3.special_tokens.values()) == list(range(128000, 128256))


def test_the_reference_and_this_tokenizer_give_the_same_golden_ids(golden: Path) -> None:
    """Meta's reference tokenized these texts with the small checkpoint's rank file."""
    numbers = json.loads((golden / "tiny-llama3" / "golden-fp32.json").read_text())
    tokenizer = Tokenizer(golden / "tiny-llama3" / "tokenizer.model")
    assert [tokenizer.encode(text, bos=True, eos=False) for text in numbers["texts"]] == numbers["tokens"]


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_ids_of_many_scripts_equal_the_tokenizers_library(
    smollm2: Tokenizer, smollm2_oracle: tokenizers.Tokenizer, text: str
) -> None:
    """Real text in many languages, emoji, whitespace, digits, code, and bytes that have no token."""
    assert ids(smollm2, text) == smollm2_oracle.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", TEXTS)
def test_llama3_ids_of_many_scripts_equal_the_tokenizers_library(
    llama3: Tokenizer, llama3_oracle: tokenizers.Tokenizer, text: str
) -> None:
    """The same texts through Hugging Face's conversion of the same file; nothing is lost on the way."""
    assert ids(llama3, text) == llama3_oracle.encode(text, add_special_tokens=False).ids
    assert llama3.decode(ids(llama3, text)) == text


def test_ids_of_any_text_equal_the_tokenizers_library(
    smollm2: Tokenizer,
    smollm2_oracle: tokenizers.Tokenizer,
    llama3: Tokenizer,
    llama3_oracle: tokenizers.Tokenizer,
) -> None:
    """Hypothesis's strings, weighted towards borders between digits, whitespace, quotes and letters."""

    @given(STRINGS)
    @example("a \x041 b")
    @example("\u2028 1\u00a0")
    def same(text: str) -> None:
        assert ids(smollm2, text) == smollm2_oracle.encode(text, add_special_tokens=False).ids
        assert ids(llama3, text) == llama3_oracle.encode(text, add_special_tokens=False).ids

    same()


def test_every_character_is_cut_and_encoded_as_in_the_tokenizers_library(
    smollm2: Tokenizer, smollm2_oracle: tokenizers.Tokenizer
) -> None:
    """Each assigned character between letters, spaces and digits: so all bytes of UTF-8, and all kinds of digits."""
    chars = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000 and unicodedata.category(chr(i)) != "Cn"]
    # Private-use planes are all alike; a part of them is enough.
    chars = [c for i, c in enumerate(chars) if unicodedata.category(c) != "Co" or i % 64 == 0]
    random.Random(1).shuffle(chars)
    texts = [
        "".join(f"a{c}b {c} 1{c}  {c}\n" for c in chars[start : start + 400]) for start in range(0, len(chars), 400)
    ]
    expected = smollm2_oracle.encode_batch(texts, add_special_tokens=False)
    assert all(ids(smollm2, text) == want.ids for text, want in zip(texts, expected, strict=True))


def test_bytes_without_a_token_are_left_out_and_nothing_else(smollm2: Tokenizer) -> None:
    """SmolLM2 has no token for U+0004; tiktoken alone would panic."""
    assert smollm2.decode(ids(smollm2, "a\x04b")) == "ab"
    assert ids(smollm2, "\x04\x06") == []


def test_text_that_looks_like_a_special_token_is_ordinary_text(smollm2: Tokenizer, llama3: Tokenizer) -> None:
    """The guard against a person's text that closes its own message."""
    for tokenizer in (smollm2, llama3):
        special = set(tokenizer.special_tokens.values())
        for text in tokenizer.special_tokens:
            assert special.isdisjoint(ids(tokenizer, f"{text} a{text}b"))
            assert tokenizer.decode(ids(tokenizer, text)) == text


def reference_cuts(s: str, max_piece: int, max_run: int) -> list[str]:
    """The reference's rule, one character after another."""
    pieces = []
    for start in range(0, len(s), max_piece):
        piece, run = "", 0
        for c in s[start : start + max_piece]:
            run = run + 1 if piece and piece[-1].isspace() == c.isspace() else 1
            if run > max_run:
                pieces.append(piece)
                piece, run = "", 1
            piece += c
        pieces.append(piece)
    return pieces


@given(st.text(st.sampled_from("ab  \n\u2003\x1c\u200b"), max_size=80), st.integers(1, 30), st.integers(1, 9))
def test_long_texts_are_cut_where_the_reference_cuts_them(s: str, max_piece: int, max_run: int) -> None:
    """The same cuts as counting whitespace character by character."""
    assert list(_split_long(s, max_piece, max_run)) == reference_cuts(s, max_piece, max_run)


def test_very_long_texts_do_not_hurt(llama3: Tokenizer, smollm2: Tokenizer) -> None:
    """A million of anything is encoded, where tiktoken alone overflows its stack; ids are those of the cut pieces."""
    for s in (" " * 1_000_000 + "a", "x" * 1_000_000, "\t \n" * 300_000 + "y", "ab cd " * 150_000):
        pieces = reference_cuts(s, 400_000, 25_000)
        assert ids(llama3, s) == [i for piece in pieces for i in llama3.model.encode_ordinary(piece)]
        assert smollm2.decode(ids(smollm2, s)) == s
    assert len(list(_split_long("x" * (MAX_RUN_CHARS + 1)))) == 2


def test_the_stream_decoder_gives_the_same_text_as_decoding_at_once(llama3: Tokenizer, golden: Path) -> None:
    """Any ids, so any bytes: whole characters, broken ones, and ones cut off at the end."""
    tiny = Tokenizer(golden / "tiny-llama3" / "tokenizer.model")  # ids 0 to 255 are the single bytes
    utf8 = st.text(max_size=10).map(lambda s: list(s.encode(errors="replace")))
    lead = st.sampled_from(
        [[0xE2], [0xF0, 0x9F], [0xF0, 0x9F, 0x99], [0xED, 0xA0], [0xC0], [0xF5], [0x80], [0xF4, 0x90]]
    )
    byte_ids = st.lists(st.one_of(utf8, lead, st.lists(st.integers(0, 513), max_size=5)), max_size=8).map(
        lambda parts: [i for part in parts for i in part]
    )

    def streamed(tokenizer: Tokenizer, tokens: list[int]) -> str:
        decoder = StreamDecoder(tokenizer)
        return "".join([*map(decoder.push, tokens), decoder.finish()])

    @given(byte_ids, st.lists(st.integers(0, 128255), max_size=20))
    def same(tokens: list[int], real: list[int]) -> None:
        assert streamed(tiny, tokens) == tiny.decode(tokens)
        assert streamed(llama3, real) == llama3.decode(real)

    same()
    emoji = StreamDecoder(tiny)
    assert [emoji.push(b) for b in "🙂".encode()] == ["", "", "", "🙂"]
    assert emoji.finish() == ""
    assert (emoji.push(0xF0), emoji.finish(), emoji.push(0x61)) == ("", "\ufffd", "a")


@given(data=st.data())
def test_decoding_gives_back_any_text(llama3: Tokenizer, data: st.DataObject) -> None:
    """Every byte has a token in Llama 3's vocabulary, so nothing is lost."""
    text = data.draw(st.text(max_size=80))
    tokens = ids(llama3, text)
    assert llama3.decode(tokens) == text
    assert b"".join(map(llama3.token_bytes, tokens)) == text.encode()


def test_ids_outside_the_vocabulary_are_refused(llama3: Tokenizer) -> None:
    """One past the end and below zero, for every way to decode."""
    for id in (-1, 128256, 2**40):
        for decode in (llama3.token_bytes, StreamDecoder(llama3).push, lambda i: llama3.decode([1, i])):
            with pytest.raises(TokenizerError, match=f"token id {id} is outside the vocabulary"):
                decode(id)


def test_a_lone_surrogate_is_refused_without_showing_the_text(llama3: Tokenizer) -> None:
    """Tiktoken would silently encode something else."""
    with pytest.raises(TokenizerError, match="lone surrogate") as refused:
        ids(llama3, "secret \ud83d")
    assert "secret" not in str(refused.value) and refused.value.__suppress_context__


def test_a_begin_or_end_that_the_vocabulary_lacks_is_refused(smollm2: Tokenizer) -> None:
    """SmolLM2 has no begin-of-text; its end is the end of a message."""
    assert (smollm2.bos_id, smollm2.eos_id, smollm2.stop_tokens, smollm2.n_words) == (None, 2, {2}, 49152)
    assert smollm2.encode("a", bos=False, eos=True) == [*ids(smollm2, "a"), 2]
    with pytest.raises(TokenizerError, match="no begin-of-text"):
        smollm2.encode("a", bos=True, eos=False)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    """Tiktoken's own loader would serve the first content again."""
    path = tmp_path / "tokenizer.model"
    first = Tokenizer(written(path, b"a", b"b"))
    second = Tokenizer(written(path, b"b", b"a"))
    assert (ids(first, "a"), ids(second, "a")) == ([0], [1])


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"YQ== 0\nYg==\n", "line 2: not a token"),
        (b"YQ== 0\nYg== x\n", "line 2: not a token"),
        (b"YQ== 0\nYg== -1\n", "line 2: not a token"),
        (b"YQ== 0\nYg== 1_0\n", "line 2: not a token"),
        (b"YQ== 0\nYg== 1 2\n", "line 2: not a token"),
        (b"YQ== 0\nYg 1\n", "line 2: not a token"),
        (b"YQ== 0\n 1\n", "line 2: not a token"),
        (b"YQ== 0\nY!== 1\n", "line 2: not a token"),
        (b"YQ== 0\nYg== " + b"9" * 9999, "line 2: not a token"),
        (b"YQ== 0\nYg== 1\nYQ== 2\n", "line 3: repeats an earlier token"),
        (b"YQ== 0\nYg== 1\nYw== 1\n", "line 3: repeats id 1"),
        (b"YQ== 0\nYg== 2\n", "id 2 is used twice"),
        (b"YQ== 0\nYg== 500\n", "id 1 has no token"),
        (bytes(range(1, 256)), "line 1: not a token"),
        (b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0c\n\x03<s>", "SentencePiece model .Llama 2"),
    ],
)
def test_a_damaged_rank_file_is_refused_with_its_name_and_line(tmp_path: Path, data: bytes, complaint: str) -> None:
    """What is wrong, and where."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(TokenizerError, match=complaint) as refused:
        Tokenizer(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    """No file, and a directory."""
    with pytest.raises(TokenizerError, match="no such file"):
        Tokenizer(tmp_path / "none")
    with pytest.raises(TokenizerError, match="a directory"):
        Tokenizer(tmp_path)


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    """No other exception comes out of the parser."""
    try:
        assert parse_ranks(data, "file")
    except TokenizerError as refused:
        assert "file" in str(refused)


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=50, unique=True))
def test_a_rank_file_gives_back_its_tokens(tokens: list[bytes]) -> None:
    """With Unix or Windows line ends."""
    lines = [b"%s %d" % (base64.b64encode(t), i) for i, t in enumerate(tokens)]
    for end in (b"\n", b"\r\n"):
        assert parse_ranks(end.join(lines), "file") == {t: i for i, t in enumerate(tokens)}


@pytest.mark.parametrize(
    ("special", "complaint"),
    [
        ({"<a>": 1}, "id 1 is used twice"),
        ({"<a>": 2, "<b>": 2}, "used twice"),
        ({"<a>": 3}, "id 2 has no"),
        ({"": 2}, "the added token 2 has no text"),
    ],
)
def test_special_tokens_that_do_not_fit_the_file_are_refused(
    tmp_path: Path, special: dict[str, int], complaint: str
) -> None:
    """An id taken twice or left out means that the parts belong to different models."""
    with pytest.raises(TokenizerError, match=complaint):
        Tokenizer(written(tmp_path / "m", b"a", b"b"), special_tokens=special)
    with pytest.raises(TokenizerError, match=complaint):
        Tokenizer(written(tmp_path / "m", b"a", b"b"), special_tokens={}, words=special)


def test_a_pattern_that_is_no_regular_expression_is_refused(tmp_path: Path) -> None:
    """It stands in params.json, where anybody may have touched it."""
    with pytest.raises(TokenizerError, match="split pattern"):
        Tokenizer(written(tmp_path / "m", b"a"), pattern="(")


def test_metas_rule_numbers_special_tokens_from_the_number_of_lines() -> None:
    """256 of them, without gaps, whatever the file's length."""
    assert list(meta_special_tokens(10).values()) == list(range(10, 266))


def test_the_patterns_compile_in_both_engines() -> None:
    """Tiktoken cuts by its own engine, and bytes without a token by the `regex` library."""
    ranks = {bytes([i]): i for i in range(256)}
    for pattern in (META_PATTERN, SMOLLM_PATTERN):
        tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        assert "".join(regex.findall(pattern, "a 1\n\n'S ?")) == "a 1\n\n'S ?"
