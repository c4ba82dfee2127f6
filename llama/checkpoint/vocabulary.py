"""Vocabularies of other formats, made into what ``llama.tokenizer`` and ``llama.chat`` take.

From Meta's rank file, a GGUF's metadata or a Hugging Face directory come: a rank file, special tokens, the pattern that
cuts text before byte-pair encoding, and the chat format with the model's own system message. Token ids are never
renumbered.

GGUF and Hugging Face describe byte-pair encoding by a list of merges, tiktoken by the order of ids. The two agree only
if the list follows the ids; that is proven for every vocabulary that comes in, see :func:`_check_merges`. Whatever else
would give other ids than the source's own tokenizer (another pre-tokeniser, a normaliser, a ChatML template with
additions of its own) is refused by name; a template with Llama 3's headers is taken to be Meta's.

Knows nothing about: tensors, the halves.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any, TypeVar

import gguf
import msgspec

from llama.checkpoint.gguf_reading import GGUFFile
from llama.checkpoint.rendering import MAX_TEMPLATE_BYTES, CannotRender, render
from llama.errors import TokenizerError
from llama.files import lies_there, quoted, read_json, shown
from llama.tokenizer import (
    META_PATTERN,
    SMOLLM_PATTERN,
    check_special_tokens,
    check_token,
    check_token_count,
    meta_special_tokens,
    parse_ranks,
    read_file,
    token_table,
)

MAX_JSON_BYTES = 64 << 20  # Llama 3's tokenizer.json has 17 MiB
MAX_CONFIG_BYTES = 4 << 20
MAX_TOKENS_BYTES = 1536 << 10  # of all tokens together; Llama 3's have 0.8 MiB
MAX_MERGES_CHARACTERS = 8 << 20
MAX_SYSTEM_CHARACTERS = 64 << 10
MAX_STEPS = 8  # of a pre-tokeniser; two are known

T = TypeVar("T")
Merges = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary as a half of a split checkpoint holds it.

    Attributes:
        model: a rank file, ready to be written as ``tokenizer.model``.
        special_tokens: id by text; None for Meta's rule.
        pattern: regular expression that cuts text; None for Meta's.
        chat_format: ``llama3`` or ``chatml``.
        default_system: system message for dialogues without one, or None.
        n_words: number of ids, special tokens included.
    """

    model: bytes
    special_tokens: dict[str, int] | None
    pattern: str | None
    chat_format: str
    default_system: str | None
    n_words: int


@dataclass(frozen=True)
class _PreTokenizer:
    """How a family cuts text, and whether a piece that is a token is taken whole, however it would be merged."""

    pattern: str | None
    ignore_merges: bool


# By GGUF's name for it; `ignore_merges` is not in the file but belongs to the name (llama.cpp, `llama-vocab.cpp`, where
# the first two, of older converters, are the same as the third).
_GGUF_PRE_TOKENIZERS = {
    "llama3": _PreTokenizer(None, ignore_merges=True),
    "llama-v3": _PreTokenizer(None, ignore_merges=True),
    "llama-bpe": _PreTokenizer(None, ignore_merges=True),
    "smollm": _PreTokenizer(SMOLLM_PATTERN, ignore_merges=False),
}


def from_meta(tokenizer_model: Path) -> Vocabulary:
    """The vocabulary of a Meta release: its rank file as it is.

    Raises:
        TokenizerError: missing, damaged, or a SentencePiece model (Llama 2).
    """
    data = read_file(tokenizer_model)
    ranks = parse_ranks(data, tokenizer_model)
    tokens = token_table(ranks, meta_special_tokens(len(ranks)), f"tokenizer {tokenizer_model}")
    return Vocabulary(data, None, None, "llama3", None, len(tokens))


def from_gguf(file: GGUFFile, where: str) -> Vocabulary:
    """The vocabulary in a GGUF's metadata (fields ``tokenizer.*``, github.com/ggml-org/ggml, ``docs/gguf.md``).

    Args:
        file: open.
        where: its name, for errors.

    Raises:
        TokenizerError: a field missing or malformed, or a tokenizer that is not supported.
    """
    kind = _gguf_field(file, "tokenizer.ggml.model", str, where)
    if kind != "gpt2":
        raise TokenizerError(f"{where}: tokenizer.ggml.model is {quoted(kind)}; supported is gpt2 (byte-pair encoding)")
    if file.get("tokenizer.ggml.pre") is None:
        raise TokenizerError(f"{where}: metadata field tokenizer.ggml.pre is missing, which says how text is cut, as "
                             f"in files from before May 2024; use a file that a later converter made")  # fmt: skip
    pre = _gguf_field(file, "tokenizer.ggml.pre", str, where)
    if pre not in _GGUF_PRE_TOKENIZERS:
        known = ", ".join(sorted(_GGUF_PRE_TOKENIZERS))
        raise TokenizerError(f"{where}: tokenizer.ggml.pre is {quoted(pre)}; supported are {known}")
    tokens = _gguf_field(file, "tokenizer.ggml.tokens", list[str], where)
    types = _gguf_field(file, "tokenizer.ggml.token_type", list[int], where)
    merges = _gguf_field(file, "tokenizer.ggml.merges", list[str], where)
    if len(types) != len(tokens):
        raise TokenizerError(f"{where}: {len(tokens)} tokens but {len(types)} token types; get the file again")
    normal = [kind == gguf.TokenType.NORMAL for kind in types]
    template = _gguf_field(file, gguf.Keys.Tokenizer.CHAT_TEMPLATE, str | None, where)
    return _convert(
        [(id, token) for id, token in enumerate(tokens) if normal[id]],
        [(id, token) for id, token in enumerate(tokens) if not normal[id]],
        merges,
        _GGUF_PRE_TOKENIZERS[pre],
        template,
        where,
    )


def _gguf_field(file: GGUFFile, name: str, kind: Any, where: str) -> Any:
    """A field of that type; None for a missing one only if the type has it."""
    try:
        value = file.get(name)
        if value is not None or kind == str | None:
            return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeDecodeError) as err:
        raise TokenizerError(f"{where}: metadata field {name} is malformed: {err}; get the file again") from None
    raise TokenizerError(f"{where}: metadata field {name} is missing; the file holds no complete tokenizer")


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _Bpe(msgspec.Struct):
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    ignore_merges: bool = False
    byte_fallback: bool = False
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class _Model(msgspec.Struct):
    type: str = "BPE"


class _TokenizerJson(msgspec.Struct):
    model: msgspec.Raw
    added_tokens: list[_AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _TokenizerConfig(msgspec.Struct):
    chat_template: str | list[_NamedTemplate] | None = None


def from_hugging_face(directory: Path) -> Vocabulary:
    """The vocabulary of a Hugging Face directory: ``tokenizer.json`` and the chat template beside it.

    Raises:
        TokenizerError: a file missing or malformed, or a tokenizer that is not supported.
    """
    where = str(directory / "tokenizer.json")
    source = _decode_json(directory / "tokenizer.json", _TokenizerJson, MAX_JSON_BYTES)
    if source.normalizer is not None:
        kind = quoted(source.normalizer.get("type"))
        raise TokenizerError(f"{where}: a normalizer of type {kind}; supported is none")
    try:
        kind = msgspec.json.decode(source.model, type=_Model).type
        if kind != "BPE":
            raise TokenizerError(f"{where}: model type {quoted(kind)}; supported is BPE (byte-pair encoding)")
        pattern = _hugging_face_pattern(source.pre_tokenizer, where)
        model = msgspec.json.decode(source.model, type=_Bpe)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise TokenizerError(f"{where}: field model is malformed: {err}; get the file again") from None
    for option in ("byte_fallback", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(model, option):
            raise TokenizerError(f"{where}: model option {option} is set; supported is byte-level BPE without it")
    added = [(token.id, token.content) for token in source.added_tokens]
    texts = {text for _, text in added}
    return _convert(
        [(id, token) for token, id in model.vocab.items() if token not in texts],
        added,
        model.merges,
        _PreTokenizer(pattern, model.ignore_merges),
        _hugging_face_template(directory),
        where,
    )


def _hugging_face_pattern(pre_tokenizer: Mapping[str, Any] | None, where: str) -> str | None:
    """The pattern that does what Llama 3's or SmolLM2's pre-tokeniser does; all others are refused."""
    steps = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise TokenizerError(f"{where}: field pre_tokenizer is malformed; get the file again")
    # How offsets into the text are reported has no bearing on ids.
    match [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps]:
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if pattern == META_PATTERN:
            return None
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, **options},
        ] if options.get("use_regex", True):
            return SMOLLM_PATTERN
    found = shown(", ".join(shown(step.get("type")) for step in steps[:MAX_STEPS])) or "none"
    raise TokenizerError(
        f"{where}: a pre-tokeniser that is not supported ({found}, with its options); "
        "supported are Llama 3's (Split, ByteLevel) and SmolLM2's (Digits, ByteLevel)"
    )


def _hugging_face_template(directory: Path) -> str | None:
    """The chat template: from its own file, or the tokenizer's configuration, or None."""
    own_file, config_file = directory / "chat_template.jinja", directory / "tokenizer_config.json"
    if lies_there(own_file):
        try:
            return read_file(own_file, MAX_CONFIG_BYTES).decode()
        except UnicodeDecodeError as err:
            raise TokenizerError(f"{own_file}: not UTF-8 text (byte {err.start}); get the file again") from None
    if not lies_there(config_file):
        return None
    template = _decode_json(config_file, _TokenizerConfig, MAX_CONFIG_BYTES).chat_template
    if isinstance(template, list):
        return next((named.template for named in template if named.name == "default"), None)
    return template


def _decode_json(path: Path, kind: type[T], most: int) -> T:
    try:
        return msgspec.json.decode(read_file(path, most, read_json), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise TokenizerError(f"{path}: malformed: {err}; get the file again") from None


def _convert(
    normal: Sequence[tuple[int, str]],
    special: Sequence[tuple[int, str]],
    merges: Sequence[str | tuple[str, str]],
    pre_tokenizer: _PreTokenizer,
    template: str | None,
    where: str,
) -> Vocabulary:
    """A vocabulary from tokens by id (written in GPT-2's characters), special tokens, and merges."""
    check_token_count(len(normal) + len(special), where)
    if sum(len(token) for _, token in normal) > MAX_TOKENS_BYTES:
        raise TokenizerError(f"{where}: its tokens are longer than {MAX_TOKENS_BYTES >> 10} KiB together, as no "
                             f"vocabulary's are; get the file again")  # fmt: skip
    for id, token in normal:
        check_token(len(token), f"{where}, token {id}")
    ranks = {_to_bytes(token, f"{where}, token {id}"): id for id, token in sorted(normal)}
    special_tokens = {text: id for id, text in sorted(special)}
    if len(ranks) != len(normal) or len(special_tokens) != len(special):
        raise TokenizerError(f"{where}: two tokens have the same text; get the file again")
    if not ranks:
        raise TokenizerError(f"{where}: no tokens but special ones; get the file again")
    check_special_tokens(special_tokens, where)
    n_words = len(token_table(ranks, special_tokens, where))
    _check_merges(ranks, _parse_merges(merges, where), pre_tokenizer.ignore_merges, where)
    chat_format = _chat_format(template, special_tokens, where)
    return Vocabulary(
        model=b"".join(b"%s %d\n" % (base64.b64encode(token), id) for token, id in ranks.items()),
        special_tokens=special_tokens,
        pattern=pre_tokenizer.pattern,
        chat_format=chat_format,
        default_system=_default_system(template, where) if template and chat_format == "chatml" else None,
        n_words=n_words,
    )


def _byte_of_char() -> dict[str, int]:
    """GPT-2's way to write bytes as visible characters (github.com/openai/gpt-2, ``bytes_to_unicode``), undone.

    Bytes that Latin-1 shows stand for themselves; the others, in order, for the characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHAR = _byte_of_char()


def _to_bytes(token: str, place: str) -> bytes:
    try:
        if token:
            return bytes([_BYTE_OF_CHAR[char] for char in token])
    except KeyError:
        pass
    raise TokenizerError(f"{place}: not written in byte-level BPE's characters; get the file again")


def _parse_merges(merges: Sequence[str | tuple[str, str]], where: str) -> Merges:
    pairs: Merges = []
    if sum(len(merge) if isinstance(merge, str) else len(merge[0]) + len(merge[1]) for merge in merges) > (
        MAX_MERGES_CHARACTERS
    ):
        raise TokenizerError(f"{where}: its merges are longer than {MAX_MERGES_CHARACTERS >> 20} MiB together, as no "
                             f"vocabulary's are; get the file again")  # fmt: skip
    for number, merge in enumerate(merges):
        place = f"{where}, merge {number}"
        left, _, right = merge.partition(" ") if isinstance(merge, str) else (merge[0], "", merge[1])
        pairs.append((_to_bytes(left, place), _to_bytes(right, place)))
    return pairs


def _check_merges(ranks: Mapping[bytes, int], merges: Merges, ignore_merges: bool, where: str) -> None:
    """Prove that merging by the list gives what tiktoken gives, which merges whatever makes the lowest id.

    Where tiktoken joins two neighbours into a token, all that could be merged into lower ids has been. No such merge
    crossed the token's ends, so inside it went as if the token stood alone. The pair is therefore the one that is left
    when the token alone is merged with lower ids only: one pair per token. If the list has that pair, and its order
    is that of the ids, both ways take the same steps. A token for which more than a pair is left is never merged
    into; tiktoken gives it only for a piece that equals it, and so does ``ignore_merges``.

    Raises:
        TokenizerError: it does not hold.
    """
    listed = set(merges)
    if len(listed) < len(merges):
        raise TokenizerError(f"{where}: a merge stands twice; get the file again")
    last = -1
    for number, (left, right) in enumerate(merges):
        rank = ranks.get(left + right)
        if rank is None or rank < last:
            reason = "makes no token" if rank is None else "comes after merges of higher ids"
            raise TokenizerError(f"{where}: merge {number} {reason}; such a vocabulary is not supported")
        last = rank
    for token, rank in ranks.items():
        parts = _merge_below(token, rank, ranks)
        unmerged = len(token) == 1 or (ignore_merges and len(parts) > 2)
        if not unmerged and tuple(parts) not in listed:
            raise TokenizerError(f"{where}: no merge leads to token {rank}; such a vocabulary is not supported")


def _merge_below(token: bytes, limit: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The parts of a token after all merges into ids below ``limit``, lowest id first, leftmost first.

    In time that hardly grows faster than the token: pairs that can be merged wait in a heap.
    """
    length, rank_of = len(token), ranks.get
    end = list(range(1, length + 1))  # of the part that begins here; 0 where none does any more
    before = list(range(-1, length - 1))  # where the part before it begins
    waiting = [  # rank, begin, middle and end of a pair
        (rank, begin, begin + 1, begin + 2)
        for begin in range(length - 1)
        if (rank := rank_of(token[begin : begin + 2], limit)) < limit
    ]
    heapify(waiting)
    count = length
    while waiting and count > 2:
        _, begin, middle, last = heappop(waiting)
        if end[begin] != middle or end[middle] != last:
            continue  # one of the two has been merged with another
        end[begin], end[middle] = last, 0
        count -= 1
        if last < length:
            before[last] = begin
            if (rank := rank_of(token[begin : end[last]], limit)) < limit:
                heappush(waiting, (rank, begin, last, end[last]))
        if begin and (rank := rank_of(token[before[begin] : last], limit)) < limit:
            heappush(waiting, (rank, before[begin], begin, last))
    begins = [begin for begin in range(length) if end[begin]]
    return [token[begin : end[begin]] for begin in begins]


def _chat_format(template: str | None, special_tokens: Iterable[str], where: str) -> str:
    """``chatml`` or ``llama3``, by what the template mentions; without a template, by the special tokens."""
    if template and len(template) > MAX_TEMPLATE_BYTES:
        raise TokenizerError(f"{where}: its chat template is longer than {MAX_TEMPLATE_BYTES >> 10} KiB, as no "
                             f"model's is; get the file again")  # fmt: skip
    mentioned = template if template else " ".join(special_tokens)
    if "<|im_start|>" in mentioned:
        return "chatml"
    if "<|start_header_id|>" in mentioned:
        return "llama3"
    source = "chat template" if template else "special tokens"
    raise TokenizerError(f"{where}: the {source} are of no known format; supported are llama3 and chatml")


def _default_system(template: str, where: str) -> str | None:
    """The system message that a ChatML template puts before a dialogue without one, or None.

    The template is somebody's program: it runs in jinja's sandbox within limits (``rendering``), and on two dialogues
    it must give plain ChatML, because ``llama.chat`` will.

    Raises:
        TokenizerError: it does not, or it fails.
    """
    question = {"role": "user", "content": " question\n"}
    answer = {"role": "assistant", "content": "yes\n"}
    dialog = [{"role": "system", "content": " be brief "}, question, answer, question]
    try:
        bare, whole = render(template, [[question], dialog])
    except CannotRender as err:
        raise TokenizerError(f"{where}: its chat template cannot be rendered ({err}); get the file again") from None
    start = re.fullmatch(r"(?:<\|im_start\|>system\n(.*)<\|im_end\|>\n)?", bare.removesuffix(_chatml([question])), re.S)
    if start is None or whole != _chatml(dialog) or not bare.endswith(_chatml([question])):
        raise TokenizerError(f"{where}: its chat template is not plain ChatML; such a model is not supported")
    if start[1] is not None and len(start[1]) > MAX_SYSTEM_CHARACTERS:
        raise TokenizerError(f"{where}: the system message of its chat template has more than {MAX_SYSTEM_CHARACTERS} "
                             f"characters; get the file again")  # fmt: skip
    return start[1]


def _chatml(dialog: Sequence[Mapping[str, str]]) -> str:
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in dialog)
    return turns + "<|im_start|>assistant\n"
