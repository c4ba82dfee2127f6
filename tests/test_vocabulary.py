"""Vocabularies of other formats: the same model from each gives the same ids, and what would not is refused."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import TikTokenConverter

from llama.checkpoint.gguf_reading import GGUFFile
from llama.checkpoint.vocabulary import Vocabulary, _merge_below, from_gguf, from_hugging_face, from_meta
from llama.errors import TokenizerError
from llama.tokenizer import SMOLLM_PATTERN, Tokenizer, meta_special_tokens, parse_ranks
from tests.volumes import examples

Json = dict[str, Any]

SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "<|begin_of_text|>{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
DIGITS_THEN_BYTES = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
CORPUS = ["the cat sat on the mat, then the hat", "Rp 300.000 untuk kado", "aaaa aaa aa a", "héé ñandú 日本 日本語"] * 5


@pytest.fixture(scope="module")
def smollm2_source(smollm2_gguf: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(smollm2_gguf)


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Vocabulary:
    return from_gguf(GGUFFile(smollm2_gguf), "a.gguf")


@pytest.fixture(scope="module")
def trained() -> Json:
    """A small tokenizer.json of SmolLM2's kind, trained and written by the `tokenizers` library."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = DIGITS_THEN_BYTES
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    )
    written: Json = json.loads(tokenizer.to_str())
    return written


@pytest.fixture(scope="module")
def llama3_json(llama3_tokenizer: Path) -> Json:
    """The real Llama 3 vocabulary as Hugging Face's converter writes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        special = list(meta_special_tokens(128000))
        converter = TikTokenConverter(  # type: ignore[no-untyped-call]
            str(llama3_tokenizer), extra_special_tokens=special
        )
        written: Json = json.loads(converter.converted().to_str())
    return written


def hugging_face(directory: Path, tokenizer: Json, **config: object) -> Path:
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def open_tokenizer(v: Vocabulary, directory: Path) -> Tokenizer:
    path = directory / "tokenizer.model"
    path.write_bytes(v.model)
    return Tokenizer(path, special_tokens=v.special_tokens, pattern=v.pattern)


def write_gguf(path: Path, **changes: object) -> GGUFFile:
    """A GGUF of nothing but a small tokenizer; ``changes`` replace or (None) leave out fields."""
    fields: Json = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": ["<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "abc"],
        "token_type": [3, 3, 1, 1, 1, 1, 1],
        "merges": ["a b", "ab c"],
    } | changes
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in fields.items():
        if name == "template":
            writer.add_chat_template(value)
        elif isinstance(value, int):
            writer.add_uint32(f"tokenizer.ggml.{name}", value)
        elif isinstance(value, list):
            writer.add_array(f"tokenizer.ggml.{name}", value)
        elif value is not None:
            writer.add_string(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GGUFFile(path)


def test_the_real_gguf_gives_smollm2s_vocabulary(smollm2: Vocabulary) -> None:
    """Ids as the checkpoint numbers them, the pattern, the chat format and the model's own system message."""
    ranks = parse_ranks(smollm2.model, "model")
    assert (len(ranks), min(ranks.values()), smollm2.n_words) == (49135, 17, 49152)
    assert smollm2.special_tokens is not None
    assert (smollm2.special_tokens["<|endoftext|>"], smollm2.special_tokens["<|im_end|>"]) == (0, 2)
    assert (smollm2.pattern, smollm2.chat_format) == (SMOLLM_PATTERN, "chatml")
    assert smollm2.default_system == SMOLLM2_SYSTEM


def test_a_hugging_face_directory_gives_the_same_vocabulary_as_the_gguf(
    smollm2: Vocabulary, smollm2_source: gguf.GGUFReader, tmp_path: Path
) -> None:
    """`tokenizer.json` as the `tokenizers` library writes it for SmolLM2, the template in each of its three places."""
    fields = {name: field.contents() for name, field in smollm2_source.fields.items() if name.startswith("tokenizer.")}
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]
    oracle = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    oracle.pre_tokenizer = DIGITS_THEN_BYTES
    oracle.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == 3])
    written, template = json.loads(oracle.to_str()), fields["tokenizer.chat_template"]

    end = "<|im_end|>"
    assert from_hugging_face(hugging_face(tmp_path, written, chat_template=template, eos_token=end)) == smollm2
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
    assert from_hugging_face(hugging_face(tmp_path, written, chat_template=named, eos_token=end)) == smollm2
    hugging_face(tmp_path, written, chat_template="{{ another }}", eos_token={"content": end, "lstrip": False})
    (tmp_path / "chat_template.jinja").write_text(template)
    assert from_hugging_face(tmp_path) == smollm2
    written["model"]["merges"] = [" ".join(pair) for pair in written["model"]["merges"]]  # as older versions write it
    assert from_hugging_face(hugging_face(tmp_path, written)) == smollm2


def test_a_hugging_face_directory_of_llama3_gives_back_metas_file(
    llama3_json: Json, llama3_tokenizer: Path, tmp_path: Path
) -> None:
    """Conversion there (by transformers) and back (by us) returns Meta's file byte for byte, and Meta's specials."""
    v = from_hugging_face(hugging_face(tmp_path, llama3_json))
    assert v.model == llama3_tokenizer.read_bytes()
    assert v == Vocabulary(v.model, meta_special_tokens(128000), None, "llama3", None, 128256)


def test_a_gguf_of_llama3_gives_back_metas_file(llama3_json: Json, llama3_tokenizer: Path, tmp_path: Path) -> None:
    """The same through GGUF's fields, with the first 30,000 tokens, some of which no merges reach."""
    count = 30_000
    tokens = [token for token, id in llama3_json["model"]["vocab"].items() if id < count]
    known = set(tokens)
    reader = write_gguf(
        tmp_path / "a.gguf",
        pre="llama-bpe",
        tokens=[*tokens, *meta_special_tokens(count)],
        token_type=[1] * count + [3] * 256,
        merges=[f"{left} {right}" for left, right in llama3_json["model"]["merges"] if left + right in known],
        template=LLAMA_3,
    )
    v = from_gguf(reader, "a.gguf")
    assert v.model.splitlines() == llama3_tokenizer.read_bytes().splitlines()[:count]
    ends = (count + 1, count + 8, count + 9)  # as llama.cpp finds them by their texts
    assert v == Vocabulary(v.model, meta_special_tokens(count), None, "llama3", None, count + 256, stop_ids=ends)


def test_metas_file_is_taken_as_it_is(llama3_tokenizer: Path) -> None:
    """Meta's rule for specials and pattern, so nothing has to be written down."""
    data = llama3_tokenizer.read_bytes()
    assert from_meta(llama3_tokenizer) == Vocabulary(data, None, None, "llama3", None, 128256)


def test_a_llama2_model_is_refused_by_name(tmp_path: Path) -> None:
    """A SentencePiece model begins with its unknown token; tiktoken cannot use it."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0c\n\x03<s>\x15\x00\x00\x00\x00\x18\x03")
    with pytest.raises(TokenizerError, match=r"SentencePiece model .Llama 2 or older., which is not supported"):
        from_meta(path)


def test_metas_file_with_a_gap_is_refused(tmp_path: Path) -> None:
    """A line lost: the special tokens would be numbered wrongly."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"YQ== 0\nYw== 2\n")
    with pytest.raises(TokenizerError, match="id 2 is used twice"):
        from_meta(path)


@pytest.mark.parametrize("alphabet", ["abc d", "aeht ,s", "日本é 0a", "\x04a\u00f1 '"])
def test_any_trained_vocabulary_that_is_taken_gives_the_librarys_ids(alphabet: str, tmp_path: Path) -> None:
    """Vocabularies trained on strings of few characters, where merges compete most, then compared on such strings."""

    @examples(0.4)
    @given(
        st.lists(st.text(alphabet, min_size=1, max_size=12), min_size=1, max_size=12), st.integers(20, 300), st.data()
    )
    def same(corpus: list[str], size: int, data: st.DataObject) -> None:
        library = tokenizers.Tokenizer(models.BPE())
        library.pre_tokenizer = DIGITS_THEN_BYTES
        special = ["<|im_start|>", "<|im_end|>"]
        library.train_from_iterator(
            corpus, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
        )
        v = from_hugging_face(hugging_face(tmp_path, json.loads(library.to_str())))
        ours = open_tokenizer(v, tmp_path)
        for text in data.draw(st.lists(st.text(alphabet, max_size=40), min_size=5, max_size=5)):
            assert ours.encode(text, bos=False, eos=False) == library.encode(text, add_special_tokens=False).ids

    same()


def test_merges_that_tiktoken_would_not_follow_are_refused(tmp_path: Path) -> None:
    """In wrong order; twice; without a token; a token that no merge, or not the one that happens first, leads to."""
    tokens = ["<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "bc", "abc"]
    cases = {
        "merge 1 comes after merges of higher ids": ["b c", "a b", "ab c"],
        "merge 2 makes no token": ["a b", "b c", "c a"],
        "a merge appears twice": ["a b", "a b", "b c", "ab c"],
        "no merge leads to token 6": ["a b", "ab c"],
        "no merge leads to token 7": ["a b", "b c", "a bc"],
    }
    types = [3, 3, 1, 1, 1, 1, 1, 1]
    for complaint, merges in cases.items():
        reader = write_gguf(tmp_path / "a.gguf", tokens=tokens, token_type=types, merges=merges)
        with pytest.raises(TokenizerError, match=f"^a.gguf: {complaint}"):
            from_gguf(reader, "a.gguf")
    good = write_gguf(tmp_path / "b.gguf", tokens=tokens, token_type=types, merges=["a b", "b c", "ab c", "a bc"])
    assert from_gguf(good, "b.gguf").n_words == 8


def merged_one_by_one(token: bytes, limit: int, ranks: dict[bytes, int]) -> list[bytes]:
    """The definition: of all neighbours the lowest id, leftmost first, until two are left or none is below."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        candidates = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        at = candidates.index(min(candidates))
        if candidates[at] >= limit:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@given(
    st.lists(st.text("ab", min_size=2, max_size=6), max_size=20, unique=True), st.text("ab", min_size=1, max_size=40),
    st.integers(0, 25),
)  # fmt: skip
def test_merging_by_a_heap_gives_what_merging_one_by_one_gives(tokens: list[str], token: str, limit: int) -> None:
    """Few letters, so that merges compete, whichever ids they have."""
    ranks = {each.encode(): id for id, each in enumerate(tokens)}
    assert _merge_below(token.encode(), limit, ranks) == merged_one_by_one(token.encode(), limit, ranks)


def test_a_long_token_is_merged_in_little_more_than_its_length(llama3_tokenizer: Path) -> None:
    """Of 65,536 letters, which one by one would take minutes."""
    ranks = parse_ranks(llama3_tokenizer.read_bytes(), "model")
    started = time.process_time()
    parts = _merge_below(b"the cat sat on a mat, " * 3000, len(ranks), ranks)
    assert b"".join(parts) == b"the cat sat on a mat, " * 3000 and len(parts) < 30_000
    assert time.process_time() - started < 10


def test_a_token_that_merges_cannot_reach_is_taken_only_with_ignore_merges(trained: Json, tmp_path: Path) -> None:
    """Tiktoken gives a piece that is a token as that token; so does the library when it ignores merges, only then."""
    tokenizer = copy.deepcopy(trained)
    word = "caht"  # its letters have tokens, and no merges lead to it
    assert set(word) <= tokenizer["model"]["vocab"].keys()
    tokenizer["model"]["vocab"][word] = len(tokenizer["model"]["vocab"])
    with pytest.raises(TokenizerError, match="no merge leads to token"):
        from_hugging_face(hugging_face(tmp_path, tokenizer))
    tokenizer["model"]["ignore_merges"] = True
    ours = open_tokenizer(from_hugging_face(hugging_face(tmp_path, tokenizer)), tmp_path)
    library = tokenizers.Tokenizer.from_str(json.dumps(tokenizer))
    for text in (word, f"{word} {word}", "cahtcaht", "the caht"):
        assert ours.encode(text, bos=False, eos=False) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.process
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"token_type": [3] * 7}, "it has only special tokens"),
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'; only gpt2"),
        ({"model": None}, "field tokenizer.ggml.model is missing"),
        ({"pre": "qwen2"}, "tokenizer.ggml.pre is 'qwen2'; supported are llama-bpe, llama-v3, llama3, smollm"),
        ({"pre": None}, "field tokenizer.ggml.pre .* is missing"),
        ({"tokens": [1, 2]}, "field tokenizer.ggml.tokens is malformed"),
        ({"merges": None}, "field tokenizer.ggml.merges is missing"),
        ({"token_type": [3, 3]}, "7 tokens but 2 token types"),
        ({"tokens": ["<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "ab"]}, "two tokens have the same text"),
        ({"tokens": ["<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "a c"]}, "token 6: not written in byte-level"),
        ({"tokens": ["<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", ""]}, "token 6: not written in byte-level"),
        ({"merges": ["a b", "abc"]}, "merge 1: not written in byte-level"),
        (
            {"tokens": ["<a>", "<b>", "a", "b", "c", "ab", "abc"]},
            "no chat template, and its special tokens match no known",
        ),
        ({"template": "{{ messages[0].content.x.y }}"}, "chat template cannot be rendered .UndefinedError"),
    ],
)
def test_a_gguf_that_is_not_supported_is_refused_by_field(tmp_path: Path, changes: Json, complaint: str) -> None:
    """One line that says which field, what it holds, and what is supported."""
    with pytest.raises(TokenizerError, match=f"^a.gguf.*{complaint}") as refused:
        from_gguf(write_gguf(tmp_path / "a.gguf", **changes), "a.gguf")
    assert "\n" not in str(refused.value)


def altered(change: Callable[[Json], object]) -> Callable[[Json], Json]:
    def apply(tokenizer: Json) -> Json:
        tokenizer = copy.deepcopy(tokenizer)
        change(tokenizer)
        return tokenizer

    return apply


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (altered(lambda t: t.pop("pre_tokenizer")), "pre-tokeniser is not supported .none"),
        (altered(lambda t: t.update(pre_tokenizer={"type": "Whitespace"})), "not supported .Whitespace"),
        (
            altered(lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True)),
            "not supported .Digits, ByteLevel, with its options",
        ),
        (altered(lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(use_regex=False)), "not supported .Digits"),
        (
            altered(lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(individual_digits=False)),
            "not supported .Digits",
        ),
        (altered(lambda t: t.update(normalizer={"type": "NFC"})), "normalizer of type 'NFC' is not supported"),
        (altered(lambda t: t["model"].update(type="Unigram")), "model type 'Unigram'; only BPE"),
        (altered(lambda t: t["model"].update(byte_fallback=True)), "model option byte_fallback is set"),
        (altered(lambda t: t["model"].update(unk_token="<unk>")), "model option unk_token is set"),
        (altered(lambda t: t["model"].update(end_of_word_suffix="</w>")), "model option end_of_word_suffix is set"),
        (altered(lambda t: t["model"].update(vocab=[])), "field model is malformed"),
        (altered(lambda t: t["model"].pop("merges")), "field model is malformed"),
        (altered(lambda t: t.pop("model")), "malformed"),
        (altered(lambda t: t.update(added_tokens=[])), "not written in byte-level|no merge leads to token 0"),
        (altered(lambda t: t["model"]["vocab"].update({"far": 9999})), "id 3[0-9][0-9]? has no token|has no token"),
    ],
)
def test_a_tokenizer_json_that_is_not_supported_is_refused_by_what_was_found(
    trained: Json, tmp_path: Path, change: Callable[[Json], Json], complaint: str
) -> None:
    """Each option that would change ids; nothing is guessed."""
    assert from_hugging_face(hugging_face(tmp_path, trained)).chat_format == "chatml"
    with pytest.raises(TokenizerError, match=complaint) as refused:
        from_hugging_face(hugging_face(tmp_path, change(trained)))
    assert "tokenizer.json" in str(refused.value) and "\n" not in str(refused.value)


def test_damaged_or_missing_json_is_refused_with_its_name(trained: Json, tmp_path: Path) -> None:
    """No directory, half a file, no text, a configuration of another shape."""
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file"):
        from_hugging_face(tmp_path)
    for data in (b"", b'{"model"', b"\xff\xfe", b"[" * 100_000, b"[]"):
        (tmp_path / "tokenizer.json").write_bytes(data)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: malformed"):
            from_hugging_face(tmp_path)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: malformed"):
        from_hugging_face(hugging_face(tmp_path, trained, chat_template=7))
    hugging_face(tmp_path, trained, eos_token="<|im_end|>")
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja: not UTF-8"):
        from_hugging_face(tmp_path)


@pytest.mark.process
@pytest.mark.parametrize(
    ("template", "default_system"),
    [
        (CHATML, None),
        (
            "{% if messages[0].role != 'system' %}<|im_start|>system\nbe\nkind<|im_end|>\n{% endif %}" + CHATML,
            "be\nkind",
        ),
        ("{% if messages[0].role != 'system' %}<|im_start|>system\n<|im_end|>\n{% endif %}" + CHATML, ""),
    ],
)
def test_the_default_system_message_is_read_off_the_template(
    trained: Json, tmp_path: Path, template: str, default_system: str | None
) -> None:
    """None, one of two lines, and an empty one."""
    v = from_hugging_face(hugging_face(tmp_path, trained, chat_template=template))
    assert (v.chat_format, v.default_system) == ("chatml", default_system)


@pytest.mark.process
@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("<|im_start|>{% for", "cannot be rendered .TemplateSyntaxError"),
        ("<|im_start|>{{ raise_exception('no') }}", "cannot be rendered .it refuses"),
        ("<|im_start|>{{ 1 / 0 }}", "cannot be rendered .ZeroDivisionError"),
        ("<|im_start|>{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be rendered .SecurityError"),
        ("<|im_start|>{{ messages.append(1) }}", "cannot be rendered .SecurityError"),
    ],
)
def test_a_template_that_cannot_be_rendered_is_refused(
    trained: Json, tmp_path: Path, template: str, complaint: str
) -> None:
    """It is a program, which must not get out of its sandbox."""
    with pytest.raises(TokenizerError, match=complaint):
        from_hugging_face(hugging_face(tmp_path, trained, chat_template=template))
