"""Text to token ids and back.

The vocabulary has Meta's file format: text, one token per line, its bytes in base64, a space, its id. Encoding is
tiktoken's byte-pair encoding, where an id is also a merge priority (lower first). Released Llama 3 files need no more:
the ids of Meta's 256 special tokens follow the last line's, and Meta's pattern splits the text first. Vocabularies of
other models have their own special tokens and pattern (``llama.checkpoint.vocabulary`` makes all three).

Two kinds of tokens are added to those of the rank file (``llama.added_tokens``): special tokens and words. Words are
found in any text. :meth:`Tokenizer.encode` never gives a special token, because text that looks like one is ordinary
text. To get one, insert its id, as ``llama.chat`` does, or use :meth:`Tokenizer.encode_template`.

Knows nothing about: chat formats, other file formats.
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import regex
import tiktoken

from llama.added_tokens import AddedTokens, Segment, TokenFlags
from llama.errors import TokenizerError
from llama.files import NotRegular, StorageRefused, TooLarge, read_anywhere

# Meta's split pattern (github.com/meta-llama/llama3, `llama/tokenizer.py`, `pat_str`).
META_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)

# SmolLM2 splits off each digit, then applies GPT-2's pattern to the rest (`tokenizers`: Digits, ByteLevel). One pattern
# does both if a digit ends whitespace as the end of the text does: "  1" becomes "  " and "1", two pieces.
SMOLLM_PATTERN = (
    r"\p{N}"
    r"|'(?:s|t|re|ve|m|ll|d)"
    r"| ?\p{L}+"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?![^\s\p{N}])"
    r"|\s+"
)

# Meta's special tokens by offset from the end of the rank file, as numbered since Llama 3.1 (llama-models,
# `models/llama3/tokenizer.py`). Llama 3.0 has the same ids, with reserved names for those that 3.1 named.
_NAMED_SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)
NUM_SPECIAL_TOKENS = 256

# Tokens that end a reply, by family; the first family with a token in the vocabulary is used.
_STOP_TOKENS = (("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"), ("<|im_end|>",))

# The reference's limits: tiktoken overflows its stack on very long runs of whitespace.
MAX_PIECE_CHARS = 400_000
MAX_RUN_CHARS = 25_000

# Limits above any vocabulary. Llama 3's file has 2.1 MiB, 128,256 tokens of up to 128 bytes, and 256 special tokens.
MAX_FILE_BYTES = 8 << 20
MAX_TOKENS = 1 << 19
MAX_TOKEN_BYTES = 4096
MAX_SPECIAL_TOKENS = 8192
MAX_SPECIAL_CHARACTERS = 256 << 10
MAX_SPECIAL_LENGTHS = 128  # per first character; the search tries each length
_ID_DIGITS = 10

_RUN = re.compile(r"\s+|\S+")  # for str, Python's \s matches str.isspace, which the reference uses


def meta_special_tokens(num_base_tokens: int) -> dict[str, int]:
    """Return Meta's 256 special tokens, numbered from ``num_base_tokens`` (the rank file's number of lines)."""
    unnamed = range(2, 2 + NUM_SPECIAL_TOKENS - len(_NAMED_SPECIAL_TOKENS))
    names = [*_NAMED_SPECIAL_TOKENS, *(f"<|reserved_special_token_{i}|>" for i in unnamed)]
    return {name: num_base_tokens + i for i, name in enumerate(names)}


def read_file(path: str | Path, most: int = MAX_FILE_BYTES, read: Callable[..., bytes] = read_anywhere) -> bytes:
    """Return the bytes of a tokenizer file, local or in cloud storage (any path that blobfile opens).

    Args:
        path: the file.
        most: largest size in bytes.
        read: reading function of ``llama.files``.

    Raises:
        TokenizerError: it is too large, not a file, or cannot be read.
    """
    # Not tiktoken's loader: it caches by path, so it would return the old content of a changed file.
    try:
        return read(path, most)
    except FileNotFoundError:
        raise TokenizerError(f"tokenizer {path}: no such file; check the path") from None
    except IsADirectoryError:
        raise TokenizerError(f"tokenizer {path}: is a directory; give the file in it") from None
    except (NotRegular, TooLarge) as err:
        raise TokenizerError(f"tokenizer {path}: {err.strerror}; get the file again") from None
    except StorageRefused as err:
        raise TokenizerError(f"tokenizer {path}: cannot be read ({err.strerror})") from None
    except (OSError, ValueError) as err:
        raise TokenizerError(f"tokenizer {path}: cannot be read ({type(err).__name__})") from None


def parse_ranks(data: bytes, where: str | Path) -> dict[bytes, int]:
    """Return the tokens of a rank file and their ids, in the file's order.

    Args:
        data: the file's bytes.
        where: its name, for errors.

    Raises:
        TokenizerError: it is not a rank file, or it is damaged; names the line.
    """
    if data.startswith(b"\n") and b"<unk>" in data[:64]:  # the first entry of a SentencePiece protobuf
        raise TokenizerError(
            f"tokenizer {where}: a SentencePiece model (Llama 2 or older), which is not supported; "
            "use a checkpoint of Llama 3 or later"
        )
    ranks: dict[bytes, int] = {}
    seen: set[int] = set()
    lines = data.splitlines()
    check_token_count(len(lines), f"tokenizer {where}")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        token, rank = _parse_line(line, f"tokenizer {where}, line {number}")
        if token in ranks:
            raise TokenizerError(f"tokenizer {where}, line {number}: repeats an earlier token; get the file again")
        if rank in seen:
            raise TokenizerError(f"tokenizer {where}, line {number}: repeats id {rank}; get the file again")
        ranks[token] = rank
        seen.add(rank)
    if not ranks:
        raise TokenizerError(f"tokenizer {where}: empty; get the file again")
    return ranks


def _parse_line(line: bytes, place: str) -> tuple[bytes, int]:
    encoded, _, rank = line.partition(b" ")
    check_token(len(encoded) // 4 * 3, place)
    try:
        token = binascii.a2b_base64(encoded, strict_mode=True)
        if not token or not rank.isdigit() or len(rank) > _ID_DIGITS:
            raise ValueError
        return token, int(rank)
    except ValueError:
        raise TokenizerError(f"{place}: not a token in base64, a space and its id; get the file again") from None


def check_token_count(count: int, where: str) -> None:
    """Refuse more tokens than a vocabulary has.

    Raises:
        TokenizerError: names both numbers.
    """
    if count > MAX_TOKENS:
        raise TokenizerError(f"{where}: {count} tokens, but at most {MAX_TOKENS} are supported; get the file again")


def check_token(length: int, place: str) -> None:
    """Refuse a token of too many bytes; raises TokenizerError."""
    if length > MAX_TOKEN_BYTES:
        raise TokenizerError(
            f"{place}: a token of about {length} bytes, but at most {MAX_TOKEN_BYTES} are supported; get the file again"
        )


def check_special_tokens(special_tokens: Mapping[str, int], where: str) -> None:
    """Refuse more special tokens than a text can be searched for; raises TokenizerError."""
    if "" in special_tokens:
        raise TokenizerError(f"{where}: the added token {special_tokens['']} has no text; give it one, or remove it")
    length = sum(map(len, special_tokens))
    lengths = Counter(first for first, _ in {(text[:1], len(text)) for text in special_tokens})
    if lengths and max(lengths.values()) > MAX_SPECIAL_LENGTHS:
        raise TokenizerError(
            f"{where}: added tokens of {max(lengths.values())} lengths begin with the same character; "
            f"at most {MAX_SPECIAL_LENGTHS} are supported"
        )
    if len(special_tokens) > MAX_SPECIAL_TOKENS or length > MAX_SPECIAL_CHARACTERS:
        raise TokenizerError(
            f"{where}: {len(special_tokens)} special tokens of {length} characters together; "
            f"at most {MAX_SPECIAL_TOKENS} and {MAX_SPECIAL_CHARACTERS} are supported"
        )


class Tokenizer:
    """A vocabulary, with the attributes of Meta's tokenizer.

    Attributes:
        n_words: number of ids, special tokens included; every id below it is a token.
        special_tokens: id by text.
        words: id by text of the added tokens that are not special.
        bos_id: id of begin-of-text, or None if the vocabulary has none.
        eos_id: id of end-of-text (Llama 3) or end-of-message (ChatML), or None.
        pad_id: -1, which is not a token.
        stop_tokens: ids that end a reply.
    """

    n_words: int
    special_tokens: dict[str, int]
    words: dict[str, int]
    bos_id: int | None
    eos_id: int | None
    pad_id: int
    stop_tokens: set[int]

    def __init__(
        self,
        model_path: str | Path,
        *,
        special_tokens: Mapping[str, int] | None = None,
        pattern: str | None = None,
        words: Mapping[str, int] | None = None,
        flags: Mapping[str, TokenFlags] | None = None,
    ) -> None:
        """Read a rank file.

        Args:
            model_path: the file, local or in cloud storage.
            special_tokens: id by text; None for Meta's 256, numbered from the number of lines.
            pattern: regular expression whose matches are encoded one by one; None for Meta's.
            words: added tokens that are not special, id by text; a word may also be a token of the rank file.
            flags: flags of special tokens and words, by text; tokens not listed have none.

        Raises:
            TokenizerError: the file is missing, damaged or of another kind; or an id is used twice or not at all.
        """
        ranks = parse_ranks(read_file(model_path), model_path)
        self.special_tokens = meta_special_tokens(len(ranks)) if special_tokens is None else dict(special_tokens)
        self.words = dict(words or {})
        check_special_tokens(self.special_tokens | self.words, f"tokenizer {model_path}")
        self._token_bytes = token_table(ranks, self.special_tokens, f"tokenizer {model_path}", self.words)
        self._added = AddedTokens(self.special_tokens, self.words, flags or {})
        self.n_words = len(self._token_bytes)
        self.bos_id = self.special_tokens.get("<|begin_of_text|>")
        stops = [[self.special_tokens[t] for t in names if t in self.special_tokens] for names in _STOP_TOKENS]
        family = next(filter(None, stops), [])
        self.eos_id = family[0] if family else None
        self.pad_id = -1
        self.stop_tokens = set(family)
        self._pattern = META_PATTERN if pattern is None else pattern
        self._missing_bytes = bytes(b for b in range(256) if bytes([b]) not in ranks)
        try:
            self.model = tiktoken.Encoding(
                Path(model_path).name, pat_str=self._pattern, mergeable_ranks=ranks, special_tokens={}
            )
        except ValueError as err:
            raise TokenizerError(f"tokenizer {model_path}: its split pattern cannot be used: {err}") from None

    def encode(self, s: str, *, bos: bool, eos: bool) -> list[int]:
        """Return the ids of a text. Text that looks like a special token is ordinary text.

        Bytes without a token in the vocabulary are dropped.

        Args:
            s: the text.
            bos: put begin-of-text before it.
            eos: put end-of-text after it.

        Raises:
            TokenizerError: the text has a lone surrogate, or the vocabulary lacks the requested begin or end token.
        """
        for asked, id, name in ((bos, self.bos_id, "begin"), (eos, self.eos_id, "end")):
            if asked and id is None:
                raise TokenizerError(f"this vocabulary has no {name}-of-text token; encode without it")
        ids = [self.bos_id] if bos and self.bos_id is not None else []
        for segment in self._added.segments(s, special=False):
            ids += self._encode_ordinary(s[segment.start : segment.end]) if segment.id is None else [segment.id]
        if eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def encode_template(self, s: str, hidden: Mapping[int, str]) -> tuple[list[int], list[Segment]]:
        """Return the ids of a chat template's text, in which special tokens are recognised.

        Args:
            s: the text.
            hidden: placeholder characters, which hide text that must not become a special token: the original by the
                placeholder's code.

        Returns:
            The ids, and the segments that they were made from.

        Raises:
            TokenizerError: the text has a lone surrogate.
        """
        ids, segments = list[int](), list(self._added.segments(s, special=True))
        for segment in segments:
            own = s[segment.start : segment.end].translate(hidden)
            ids += self._encode_ordinary(own) if segment.id is None else [segment.id]
        return ids, segments

    def _encode_ordinary(self, s: str) -> list[int]:
        ids = list[int]()
        for piece in _split_long(s):
            ids += self._encode_piece(piece)
        return ids

    def _encode_piece(self, s: str) -> list[int]:
        try:
            raw = s.encode()
        except UnicodeEncodeError:
            raise TokenizerError(
                "the text has a lone surrogate, which is not valid Unicode; save it as UTF-8"
            ) from None
        if len(raw.translate(None, self._missing_bytes)) == len(raw):
            return self.model.encode_ordinary(s)
        # tiktoken panics on a byte without a token, so such bytes are removed first, but after the split, as in the
        # `tokenizers` library. `regex` does the split; its Unicode tables may have letters that tiktoken's lack.
        ids: list[int] = []
        for match in self._cut.finditer(s):
            kept = match[0].encode().translate(None, self._missing_bytes)
            if kept:
                ids += self.model._encode_single_piece(kept)
        return ids

    @cached_property
    def _cut(self) -> regex.Pattern[str]:
        return regex.compile(self._pattern)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids. Bytes that are not UTF-8 become U+FFFD, special tokens become their text.

        Raises:
            TokenizerError: an id is not a token.
        """
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one id; for a special token, its text in UTF-8.

        Raises:
            TokenizerError: the id is not a token.
        """
        if not 0 <= id < self.n_words:
            raise TokenizerError(f"token id {id} is outside the vocabulary (0 to {self.n_words - 1})")
        return self._token_bytes[id]


class StreamDecoder:
    """Decoder for ids that arrive one by one. It gives out a character once all its bytes have arrived.

    ``"".join(map(push, ids)) + finish()`` equals ``tokenizer.decode(ids)`` for any ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Return the characters that this id completes, possibly none.

        Raises:
            TokenizerError: the id is not a token.
        """
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """Return U+FFFD if an incomplete character remains, else an empty text; reset for the next reply."""
        return self._decoder.decode(b"", final=True)


def token_table(
    ranks: Mapping[bytes, int], special_tokens: Mapping[str, int], where: str, words: Mapping[str, int] | None = None
) -> list[bytes]:
    """Return every token's bytes, indexed by id; each id from 0 on must have exactly one token.

    A word or a special token may also be a token of the rank file, with the same id.
    """
    tokens = {id: text.encode() for text, id in [*special_tokens.items(), *(words or {}).items()]}
    twice = next((id for token, id in ranks.items() if tokens.get(id, token) != token), None)
    if twice is not None or len(tokens) != len(special_tokens) + len(words or {}):
        raise TokenizerError(
            f"{where}: id {twice if twice is not None else 'of a special token'} is used twice; get the file again"
        )
    tokens.update((id, token) for token, id in ranks.items())
    gap = next((id for id in range(len(tokens)) if id not in tokens), None)
    if gap is not None:
        raise TokenizerError(f"{where}: id {gap} has no token; the file and its special tokens do not belong together")
    return [tokens[id] for id in range(len(tokens))]


def _split_long(s: str, max_piece: int = MAX_PIECE_CHARS, max_run: int = MAX_RUN_CHARS) -> Iterator[str]:
    """Yield the text in pieces that tiktoken can process, split at the same places as in the reference.

    A piece has at most ``max_piece`` characters. Inside it, a run of whitespace, or of other characters, is split after
    each ``max_run``. As in the reference, the count of a run starts again in each piece.
    """
    for start in range(0, len(s), max_piece):
        piece = s[start : start + max_piece]
        cuts = [0]
        if len(piece) > max_run:
            for run in _RUN.finditer(piece):
                cuts += range(run.start() + max_run, run.end(), max_run)
        cuts.append(len(piece))
        for begin, end in pairwise(cuts):
            yield piece[begin:end]
