"""Conversion of vocabularies into the inputs of ``llama.tokenizer`` and ``llama.chat``.

The sources are Meta's rank file, a GGUF's metadata or a Hugging Face directory. The results are a rank file, added
tokens, the pattern that splits text before byte-pair encoding, the chat format (``templates``), and the ids that end a
reply. Token ids are never renumbered.

GGUF and Hugging Face describe byte-pair encoding by a list of merges, tiktoken by the order of ids. The two agree only
if the list follows the ids; :func:`_check_merges` proves that for every vocabulary. Other features that would give
other ids than the source's own tokenizer (another pre-tokeniser, a normaliser) are refused by name.

Knows nothing about: tensors, the halves.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

import gguf
import msgspec

from llama.added_tokens import PLAIN, Literals, TokenFlags
from llama.chat import MAX_STOP_IDS
from llama.checkpoint.gguf_reading import GGUFFile
from llama.checkpoint.native_proof import NATIVE_TOKENS
from llama.checkpoint.templates import choose, template_variables
from llama.checkpoint.tokenizer_config import (
    TEMPLATE_VARIABLES,
    Added,
    FlaggedToken,
    decode_json,
    ends_of,
    read_tokenizer_config,
    template_of,
)
from llama.errors import TokenizerError
from llama.files import quoted, shown
from llama.template_format import ChatTemplate
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
MAX_TOKENS_BYTES = 1536 << 10  # all tokens together; Llama 3's have 0.8 MiB
MAX_MERGES_CHARACTERS = 8 << 20
MAX_STEPS = 8  # steps of a pre-tokeniser in an error; the known ones have two

Merges = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary as stored in a half of a split checkpoint.

    Attributes:
        model: a rank file, ready to be written as ``tokenizer.model``.
        special_tokens: id by text; None for Meta's rule.
        pattern: regular expression that splits text; None for Meta's.
        chat_format: ``llama3``, ``chatml`` or ``template``.
        default_system: system message for dialogues without one, or None.
        n_words: number of ids, special tokens included.
        words: id by text of added tokens that are not special.
        flags: flags of added tokens, by text; tokens not listed have none.
        template: the chat template, if the format is ``template``.
        stop_ids: ids that end a reply, beside the one that ends a turn in ``llama3`` and ``chatml``; None for these
            formats' usual ones.
    """

    model: bytes
    special_tokens: dict[str, int] | None
    pattern: str | None
    chat_format: str
    default_system: str | None
    n_words: int
    words: dict[str, int] = field(default_factory=dict)
    flags: dict[str, TokenFlags] = field(default_factory=dict)
    template: ChatTemplate | None = None
    stop_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _PreTokenizer:
    """A family's pattern, and whether a piece that equals a token becomes that token without merging."""

    pattern: str | None
    ignore_merges: bool


# By GGUF's name. `ignore_merges` is not in the file but follows from the name (llama.cpp, `llama-vocab.cpp`, which
# treats the first two, of older converters, like the third).
_GGUF_PRE_TOKENIZERS = {
    "llama3": _PreTokenizer(None, ignore_merges=True),
    "llama-v3": _PreTokenizer(None, ignore_merges=True),
    "llama-bpe": _PreTokenizer(None, ignore_merges=True),
    "smollm": _PreTokenizer(SMOLLM_PATTERN, ignore_merges=False),
}


# Tokens that a template uses by name, and tokens that end a reply (llama.cpp, `llama-vocab.cpp`: end of text, turn,
# message).
_GGUF_NAMED_TOKENS = {
    "bos_token": gguf.Keys.Tokenizer.BOS_ID,
    "eos_token": gguf.Keys.Tokenizer.EOS_ID,
    "unk_token": gguf.Keys.Tokenizer.UNK_ID,
    "pad_token": gguf.Keys.Tokenizer.PAD_ID,
    "eot_token": gguf.Keys.Tokenizer.EOT_ID,
    "eom_token": gguf.Keys.Tokenizer.EOM_ID,
}
_GGUF_ENDS = ("eos_token", "eot_token", "eom_token")
# For files that do not name these tokens: the usual texts in families with byte-pair encoding.
_USUAL_TOKENS = {
    "bos_token": ("<|begin_of_text|>", "<|startoftext|>", "<s>"),
    "eos_token": ("<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>", "</s>"),
}
_USUAL_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>")


def from_meta(tokenizer_model: Path, chat_format: str | None = None) -> Vocabulary:
    """Return the vocabulary of a Meta release, with its rank file unchanged.

    Raises:
        TokenizerError: the file is missing, damaged, or a SentencePiece model (Llama 2); or another chat format than
            Meta's is asked for.
    """
    if chat_format not in (None, "llama3"):
        raise TokenizerError(
            f"--chat_format {quoted(chat_format)}: a Meta release has no chat template, and only the "
            f"special tokens of llama3; omit it"
        )
    data = read_file(tokenizer_model)
    ranks = parse_ranks(data, tokenizer_model)
    tokens = token_table(ranks, meta_special_tokens(len(ranks)), f"tokenizer {tokenizer_model}")
    return Vocabulary(data, None, None, "llama3", None, len(tokens))


def from_gguf(file: GGUFFile, where: str, chat_format: str | None = None) -> Vocabulary:
    """Return the vocabulary in a GGUF's metadata (fields ``tokenizer.*``, github.com/ggml-org/ggml, ``docs/gguf.md``).

    Args:
        file: the open file.
        where: its name, for errors.
        chat_format: overrides the file's chat template.

    Raises:
        TokenizerError: a field is missing or malformed, or the tokenizer is not supported.
    """
    kind = _gguf_field(file, "tokenizer.ggml.model", str, where)
    if kind != "gpt2":
        raise TokenizerError(
            f"{where}: tokenizer.ggml.model is {quoted(kind)}; only gpt2 (byte-pair encoding) is supported"
        )
    if file.get("tokenizer.ggml.pre") is None:
        raise TokenizerError(
            f"{where}: metadata field tokenizer.ggml.pre (how to split text) is missing, as in "
            f"files from before May 2024; use a file from a later converter"
        )
    pre = _gguf_field(file, "tokenizer.ggml.pre", str, where)
    if pre not in _GGUF_PRE_TOKENIZERS:
        known = ", ".join(sorted(_GGUF_PRE_TOKENIZERS))
        raise TokenizerError(f"{where}: tokenizer.ggml.pre is {quoted(pre)}; supported are {known}")
    tokens = _gguf_field(file, "tokenizer.ggml.tokens", list[str], where)
    types = _gguf_field(file, "tokenizer.ggml.token_type", list[int], where)
    merges = _gguf_field(file, "tokenizer.ggml.merges", list[str], where)
    if len(types) != len(tokens):
        raise TokenizerError(
            f"{where}: {len(tokens)} tokens but {len(types)} token types; convert the model "
            f"again, or use another GGUF of it"
        )
    made = {merge.replace(" ", "", 1) for merge in merges}
    words = [kind == gguf.TokenType.USER_DEFINED for kind in types]
    normal = [
        kind == gguf.TokenType.NORMAL or (word and token in made)
        for token, kind, word in zip(tokens, types, words, strict=True)
    ]
    template = _gguf_field(file, gguf.Keys.Tokenizer.CHAT_TEMPLATE, str | None, where)
    named = {name: _gguf_field(file, key, int | None, where) for name, key in _GGUF_NAMED_TOKENS.items()}
    inside = {name: id for name, id in named.items() if id is not None and 0 <= id < len(tokens)}
    plain = {id for id, kind in enumerate(types) if kind == gguf.TokenType.NORMAL}
    variables = {
        name: _plain_text(tokens[id], f"{where}, token {id}") if id in plain else tokens[id]
        for name, id in inside.items()
        if name in TEMPLATE_VARIABLES
    }
    for name, usual in _USUAL_TOKENS.items():
        if name not in variables and (found := next((token for token in usual if token in tokens), None)) is not None:
            variables[name] = found
    return _convert(
        [(id, token) for id, token in enumerate(tokens) if normal[id]],
        [
            Added(id, token, special=not words[id])
            for id, token in enumerate(tokens)
            if words[id] or types[id] != gguf.TokenType.NORMAL
        ],
        merges,
        _GGUF_PRE_TOKENIZERS[pre],
        None if template is None else ChatTemplate(template, template_variables(variables, template, where)),
        # llama.cpp adds by their texts the ends that the metadata leave out (`llama-vocab.cpp`).
        [id for name, id in inside.items() if name in _GGUF_ENDS]
        + [id for id, token in enumerate(tokens) if token in _USUAL_ENDS],
        chat_format,
        where,
    )


def _plain_text(token: str, place: str) -> str:
    """Return the text of an ordinary token."""
    return _to_bytes(token, place).decode(errors="replace")


def _gguf_field(file: GGUFFile, name: str, kind: Any, where: str) -> Any:
    """Return a field of type ``kind``; None if it is missing and ``kind`` allows None."""
    try:
        value = file.get(name)
        if value is not None or kind in (str | None, int | None):
            return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeDecodeError) as err:
        raise TokenizerError(
            f"{where}: metadata field {name} is malformed: {err}; convert the model again, or use another GGUF of it"
        ) from None
    raise TokenizerError(
        f"{where}: metadata field {name} is missing, so the tokenizer is incomplete; use another GGUF of the model"
    )


class _AddedToken(FlaggedToken, kw_only=True):
    id: int
    normalized: bool = False


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
    padding: dict[str, Any] | None = None


def from_hugging_face(directory: Path, chat_format: str | None = None, vocab_size: int | None = None) -> Vocabulary:
    """Return the vocabulary of a Hugging Face directory, from ``tokenizer.json`` and the files beside it.

    Args:
        directory: the checkpoint's directory.
        chat_format: overrides the checkpoint's chat template.
        vocab_size: number of the model's embeddings, if known. Added tokens without an embedding, such as for padding,
            are dropped if no dialogue needs them.

    Raises:
        TokenizerError: a file is missing or malformed, or the tokenizer is not supported.
    """
    where = str(directory / "tokenizer.json")
    source = decode_json(directory / "tokenizer.json", _TokenizerJson, MAX_JSON_BYTES)
    if source.normalizer not in (None, {"type": "Sequence", "normalizers": []}):
        kind = quoted(source.normalizer.get("type"))
        raise TokenizerError(f"{where}: a normalizer of type {kind} is not supported; use a Llama model without one")
    try:
        kind = msgspec.json.decode(source.model, type=_Model).type
        if kind != "BPE":
            raise TokenizerError(f"{where}: model type {quoted(kind)}; only BPE (byte-pair encoding) is supported")
        pattern = _hugging_face_pattern(source.pre_tokenizer, where)
        model = msgspec.json.decode(source.model, type=_Bpe)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise TokenizerError(
            f"{where}: field model is malformed: {err}; use the tokenizer.json that belongs to the model"
        ) from None
    for option in ("byte_fallback", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(model, option):
            raise TokenizerError(f"{where}: model option {option} is set; only byte-level BPE without it is supported")
    padding = (source.padding or {}).get("pad_token")
    config = read_tokenizer_config(directory, padding if isinstance(padding, str) else None)
    added = [Added(token.id, token.content, token.special, token.flags) for token in source.added_tokens]
    added = config.completed(added, model.vocab)
    template = template_of(directory, config)
    beyond = [token for token in added if token.id >= (vocab_size or token.id + 1) and token.text not in model.vocab]
    needed = {config.variables.get("bos_token"), config.variables.get("eos_token"), *NATIVE_TOKENS}
    if not any(token.text in needed or token.text in (template or "") for token in beyond):
        left_out = {token.id for token in beyond}
        added = [token for token in added if token.id not in left_out]
    return _convert(
        _normal_tokens(model, {token.text: token.id for token in added}, where),
        added,
        model.merges,
        _PreTokenizer(pattern, model.ignore_merges),
        None if template is None else ChatTemplate(template, template_variables(config.variables, template, where)),
        ends_of(directory, config, added),
        chat_format,
        where,
    )


def _normal_tokens(model: _Bpe, added: Mapping[str, int], where: str) -> list[tuple[int, str]]:
    """Return the tokens of byte-pair encoding: all except those that are only added and that no merge makes."""
    both = {token for token in added if token in model.vocab}
    differs = next((token for token in sorted(both) if added[token] != model.vocab[token]), None)
    if differs is not None:
        raise TokenizerError(
            f"{where}: {quoted(differs)} is token {added[differs]} under added_tokens and "
            f"{model.vocab[differs]} under vocab; make the two agree"
        )
    joined = (merge.replace(" ", "") if isinstance(merge, str) else "".join(merge) for merge in model.merges)
    made = {token for token in joined if token in both} | {token for token in both if len(token) == 1}
    made = {token for token in made if all(char in _BYTE_OF_CHAR for char in token)}
    return [(id, token) for token, id in model.vocab.items() if token not in both or token in made]


def _hugging_face_pattern(pre_tokenizer: Mapping[str, Any] | None, where: str) -> str | None:
    """Return the pattern for Llama 3's or SmolLM2's pre-tokeniser; refuse all others."""
    steps = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise TokenizerError(
            f"{where}: field pre_tokenizer is malformed; use the tokenizer.json that belongs to the model"
        )
    # `trim_offsets` only affects reported offsets, not ids.
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
        f"{where}: its pre-tokeniser is not supported ({found}, with its options); "
        "supported are Llama 3's (Split, ByteLevel) and SmolLM2's (Digits, ByteLevel)"
    )


def _convert(
    normal: Sequence[tuple[int, str]],
    added: Sequence[Added],
    merges: Sequence[str | tuple[str, str]],
    pre_tokenizer: _PreTokenizer,
    template: ChatTemplate | None,
    ends: Sequence[int],
    asked_format: str | None,
    where: str,
) -> Vocabulary:
    """Build a vocabulary from tokens by id (in GPT-2's characters), added tokens, merges and the other parts."""
    check_token_count(len(normal) + len(added), where)
    if sum(len(token) for _, token in normal) > MAX_TOKENS_BYTES:
        raise TokenizerError(
            f"{where}: its tokens are longer than {MAX_TOKENS_BYTES >> 10} KiB together; use the "
            f"tokenizer that belongs to the model"
        )
    for id, token in normal:
        check_token(len(token), f"{where}, token {id}")
    ranks = {_to_bytes(token, f"{where}, token {id}"): id for id, token in sorted(normal)}
    by_text = {token.text: token for token in sorted(added, key=lambda token: token.id)}
    if len(ranks) != len(normal) or len(by_text) != len(added):
        texts = [token for _, token in normal] if len(ranks) != len(normal) else [token.text for token in added]
        twice = next(text for text, count in Counter(texts).items() if count > 1)
        raise TokenizerError(f"{where}: two tokens have the same text, {quoted(twice)}; give one of them another")
    if not ranks:
        raise TokenizerError(f"{where}: it has only special tokens; use the tokenizer that belongs to the model")
    ids = {text: token.id for text, token in by_text.items()}
    check_special_tokens(ids, where)
    n_words = len(token_table(ranks, ids, where))
    _check_merges(ranks, _parse_merges(merges, where), pre_tokenizer.ignore_merges, where)
    flagged = any(token.flags != PLAIN or not token.special for token in added)
    choice = choose(template, ids, asked_format, flagged, where)
    # A message must not contain the tokens that stand between messages, or it could end itself.
    literals = Literals(ids)
    around = {choice.around[begin:end] for begin, end in literals.find(choice.around, 0, len(choice.around))}
    special = {text for text, token in by_text.items() if token.special or (text in around and not text.isspace())}
    answered = [ids[text] for text in sorted(special, key=len) if choice.after_answer.lstrip().startswith(text)]
    stops = [*ends, *answered[-1:]]
    if not ends and choice.template is not None:
        stops += [ids[text] for text in _USUAL_ENDS if text in special]
    inside = {id for id in stops if 0 <= id < n_words}
    if len(inside) > MAX_STOP_IDS:
        raise TokenizerError(
            f"{where}: the files beside it name {len(inside)} tokens that end a reply; at most "
            f"{MAX_STOP_IDS} are supported; name fewer in generation_config.json"
        )
    return Vocabulary(
        model=b"".join(b"%s %d\n" % (base64.b64encode(token), id) for token, id in ranks.items()),
        special_tokens={text: id for text, id in ids.items() if text in special},
        pattern=pre_tokenizer.pattern,
        chat_format=choice.chat_format,
        default_system=choice.default_system,
        n_words=n_words,
        words={text: id for text, id in ids.items() if text not in special},
        flags={text: token.flags for text, token in by_text.items() if token.flags != PLAIN},
        template=choice.template,
        stop_ids=tuple(sorted(inside)) if inside or choice.template is not None else None,
    )


def _byte_of_char() -> dict[str, int]:
    """Return the byte of each of GPT-2's visible characters (inverse of github.com/openai/gpt-2, ``bytes_to_unicode``).

    Printable Latin-1 bytes map to themselves; the others map, in order, to the characters from U+0100 on.
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
    raise TokenizerError(f"{place}: not written in byte-level BPE's characters; use a model with byte-level BPE")


def _parse_merges(merges: Sequence[str | tuple[str, str]], where: str) -> Merges:
    pairs: Merges = []
    if sum(len(merge) if isinstance(merge, str) else len(merge[0]) + len(merge[1]) for merge in merges) > (
        MAX_MERGES_CHARACTERS
    ):
        raise TokenizerError(
            f"{where}: its merges are longer than {MAX_MERGES_CHARACTERS >> 20} MiB together; use the "
            f"tokenizer that belongs to the model"
        )
    for number, merge in enumerate(merges):
        place = f"{where}, merge {number}"
        left, _, right = merge.partition(" ") if isinstance(merge, str) else (merge[0], "", merge[1])
        pairs.append((_to_bytes(left, place), _to_bytes(right, place)))
    return pairs


def _check_merges(ranks: Mapping[bytes, int], merges: Merges, ignore_merges: bool, where: str) -> None:
    """Prove that merging by the list gives the same ids as tiktoken, which always makes the lowest possible id next.

    When tiktoken joins two neighbours into a token, every merge into a lower id has been done. No such merge crossed
    the token's ends, so the merges inside are the same as if the token stood alone. So the joined pair is what remains
    when the token alone is merged into lower ids only: one pair per token. If the list has that pair, and its order
    follows the ids, both algorithms take the same steps. If more than two parts remain, no merge makes the token;
    tiktoken gives it only for a piece that equals it, and so does ``ignore_merges``.

    Raises:
        TokenizerError: the proof fails.
    """
    listed = set(merges)
    if len(listed) < len(merges):
        raise TokenizerError(f"{where}: a merge appears twice; remove one of them")
    last, hint = -1, "" if ignore_merges else ", and ignore_merges is not set (newer files of Llama 3 set it)"
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
            raise TokenizerError(f"{where}: no merge leads to token {rank}{hint}; such a vocabulary is not supported")


def _merge_below(token: bytes, limit: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Return a token's parts after all merges into ids below ``limit``, lowest id first, leftmost first.

    A heap of mergeable pairs keeps the time nearly linear in the token's length.
    """
    length, rank_of = len(token), ranks.get
    end = list(range(1, length + 1))  # end of the part that begins here; 0 if none does
    before = list(range(-1, length - 1))  # begin of the part before it
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
            continue  # one of the two has been merged already
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
