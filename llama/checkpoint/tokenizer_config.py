"""Added tokens, chat templates and reply ends from the files beside a Hugging Face ``tokenizer.json``.

Knows: ``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json``, ``chat_template.jinja``,
``generation_config.json`` and ``config.json``, and their precedence (transformers 5, ``_from_pretrained`` of
``tokenization_utils_base.py``, and ``tokenization_utils_tokenizers.py``).
Knows nothing about: byte-pair encoding, the text that a template writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from llama.added_tokens import PLAIN, TokenFlags
from llama.errors import TokenizerError
from llama.files import lies_there, quoted, read_json, shown
from llama.tokenizer import read_file

MAX_CONFIG_BYTES = 4 << 20
# Variables that transformers passes to a template (`SPECIAL_TOKENS_ATTRIBUTES`); a model may add others like them.
TEMPLATE_VARIABLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKEN_FILES = ("tokenizer.json",)

T = TypeVar("T")


@dataclass(frozen=True)
class Added:
    """A token that is added to those of byte-pair encoding."""

    id: int
    text: str
    special: bool
    flags: TokenFlags = PLAIN


class FlaggedToken(msgspec.Struct):
    """A token with its flags, as the files write it."""

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool | None = None

    @property
    def flags(self) -> TokenFlags:
        """Matching flags. If ``normalized`` is missing, it is true for words only."""
        normalized = not self.special if self.normalized is None else self.normalized
        return TokenFlags(self.lstrip, self.rstrip, self.single_word, normalized)


_Said = str | FlaggedToken


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _Fields(msgspec.Struct):
    """Fields of ``tokenizer_config.json`` and ``special_tokens_map.json``. Named tokens are read one by one."""

    chat_template: str | list[_NamedTemplate] | None = None
    additional_special_tokens: list[_Said] | None = None
    extra_special_tokens: list[_Said] | dict[str, _Said] | None = None
    added_tokens_decoder: dict[int, FlaggedToken] | None = None
    split_special_tokens: bool | None = None
    fast_tokenizer_files: list[str] | None = None


@dataclass(frozen=True)
class TokenizerConfig:
    """Tokens and template from the files.

    Attributes:
        where: the file, for errors.
        named: tokens with a name, by that name, in transformers' order.
        listed: special tokens without a name.
        numbered: tokens with an id in the files, by id.
        template: chat template in ``tokenizer_config.json``, or None.
    """

    where: Path
    named: dict[str, _Said]
    listed: list[_Said]
    numbered: dict[int, FlaggedToken]
    template: str | None

    @property
    def variables(self) -> dict[str, str]:
        """Texts of the named tokens, by the names that a template uses."""
        return {name: _text_of(token) for name, token in self.named.items()}

    def completed(self, added: Sequence[Added], vocab: Mapping[str, int]) -> list[Added]:
        """Return ``tokenizer.json``'s added tokens with these files' settings, and the tokens that these files add.

        An added token keeps its text's id in the vocabulary, or gets the next free id.
        """
        special = {_text_of(token) for token in self.named.values()}
        said = {token.content: token for token in self.numbered.values()}
        found = list[Added]()
        for token in added:
            if token.text in said:
                own = said[token.text]
                token = replace(token, special=own.special, flags=own.flags)
            found.append(replace(token, special=token.special or token.text in special))
        ids = {token.text: token.id for token in found}
        free = max([*vocab.values(), *ids.values()], default=-1) + 1
        numbered = [token for _, token in sorted(self.numbered.items())]
        for said_token in [*numbered, *self.named.values(), *self.listed]:
            text = _text_of(said_token)
            if not text or text in ids:
                continue
            ids[text] = vocab.get(text, free)
            free += text not in vocab
            is_special = text in special or isinstance(said_token, str) or said_token.special
            flags = said_token.flags if isinstance(said_token, FlaggedToken) else PLAIN
            found.append(Added(ids[text], text, is_special, flags))
        return found


def read_tokenizer_config(directory: Path, padding: str | None = None) -> TokenizerConfig:
    """Read ``tokenizer_config.json`` and the older files beside it; missing files count as empty.

    Args:
        directory: the checkpoint's directory.
        padding: the padding token that ``tokenizer.json`` names, or None.

    Raises:
        TokenizerError: a file is malformed, or has a setting that is not supported.
    """
    path, older = directory / "tokenizer_config.json", directory / "special_tokens_map.json"
    raw, config = _fields_of(path)
    if config.split_special_tokens:
        raise TokenizerError(
            f"{path}: split_special_tokens is set, but then no chat template can write a special token; remove it"
        )
    if set(config.fast_tokenizer_files or ()) - set(_TOKEN_FILES):
        raise TokenizerError(
            f"{path}: fast_tokenizer_files names other tokenizers than tokenizer.json; save the right "
            f"one as tokenizer.json, and remove the field"
        )
    extra = config.extra_special_tokens or config.additional_special_tokens or []
    named = {name: raw[name] for name in raw if _names_a_token(name, raw[name])}
    if isinstance(extra, dict):
        named, extra = {**named, **extra}, []
    listed, numbered = list(extra), dict(config.added_tokens_decoder or {})
    if config.added_tokens_decoder is None and lies_there(older):
        raw, map_fields = _fields_of(older)
        named |= {name: raw[name] for name in raw if name.endswith("_token")}
        more = map_fields.extra_special_tokens or map_fields.additional_special_tokens or []
        if isinstance(more, dict):
            named |= more
        else:
            listed += [token for token in more if _text_of(token) not in map(_text_of, listed)]
    if padding is not None:
        named.setdefault("pad_token", padding)
    tokens = {name: _token(named[name], f"{path}: {name}") for name in _in_order(named) if named[name] is not None}
    if config.added_tokens_decoder is None:
        numbered = _legacy(directory, {*map(_text_of, tokens.values()), *map(_text_of, listed)})
    return TokenizerConfig(path, tokens, listed, numbered, _default_template(config.chat_template, path))


def template_of(directory: Path, config: TokenizerConfig) -> str | None:
    """Return the chat template from its own file, else from the tokenizer's configuration, else None.

    Raises:
        TokenizerError: the file is not UTF-8; or there are several templates and none is named ``default``.
    """
    own, more = directory / "chat_template.jinja", directory / "additional_chat_templates"
    names = {path.stem for path in more.glob("*.jinja")}
    if "default" in names:
        own = more / "default.jinja"
    elif names and not lies_there(own):
        raise TokenizerError(
            f"{more} has templates ({shown(', '.join(sorted(names)))}), but none is named default; copy "
            f"the right one to {own.name}"
        )
    if not lies_there(own):
        return config.template
    try:
        return read_file(own, MAX_CONFIG_BYTES).decode()
    except UnicodeDecodeError as err:
        raise TokenizerError(f"{own}: not UTF-8 text (byte {err.start}); save it as UTF-8") from None


class _Ends(msgspec.Struct):
    """The field for reply ends in generation_config.json and config.json."""

    eos_token_id: int | list[int] | None = None

    @property
    def ids(self) -> list[int]:
        ids = self.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else ids


def ends_of(directory: Path, config: TokenizerConfig, added: Sequence[Added]) -> list[int]:
    """Return the ids that end a reply, from all files.

    transformers uses generation_config.json, or config.json without it. Ids from the other files count only if they are
    added tokens: many a config.json still has another model's id, which is an ordinary word in this one.

    Raises:
        TokenizerError: a file is malformed.
    """
    generation, model = directory / "generation_config.json", directory / "config.json"
    sure = decode_json(generation, _Ends, MAX_CONFIG_BYTES).ids if lies_there(generation) else []
    said = decode_json(model, _Ends, MAX_CONFIG_BYTES).ids if lies_there(model) else []
    named = [token.id for token in added if token.text == config.variables.get("eos_token")]
    known = {token.id for token in added}
    return [*sure, *(id for id in (*said, *named) if id in known or not sure)]


def decode_json(path: Path, kind: type[T], most: int) -> T:
    """Decode a JSON file of at most ``most`` bytes into ``kind``.

    Raises:
        TokenizerError: it cannot be read, is damaged, or does not match ``kind``.
    """
    try:
        return msgspec.json.decode(read_file(path, most, read_json), type=kind)
    except msgspec.ValidationError as err:
        raise TokenizerError(f"{path}: malformed: {err}; use the file that belongs to the model") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise TokenizerError(f"{path}: malformed: not JSON ({err}); get the file again") from None


def _fields_of(path: Path) -> tuple[dict[str, Any], _Fields]:
    if not lies_there(path):
        return {}, _Fields()
    raw: dict[str, Any] = decode_json(path, dict, MAX_CONFIG_BYTES)
    return raw, decode_json(path, _Fields, MAX_CONFIG_BYTES)


def _names_a_token(name: str, value: object) -> bool:
    """Return whether a field is one of transformers' token names, or ends in ``_token`` and holds a token."""
    is_token = isinstance(value, str) or (isinstance(value, dict) and value.get("__type") == "AddedToken")
    return name in TEMPLATE_VARIABLES or (name.endswith("_token") and is_token)


def _in_order(named: Mapping[str, object]) -> list[str]:
    known = [name for name in TEMPLATE_VARIABLES if name in named]
    return [*known, *(name for name in named if name not in known)]


def _token(value: object, where: str) -> _Said:
    try:
        return msgspec.convert(value, str | FlaggedToken)
    except msgspec.ValidationError as err:
        raise TokenizerError(f"{where}: malformed: {err}; use the file that belongs to the model") from None


def _legacy(directory: Path, special: set[str]) -> dict[int, FlaggedToken]:
    """Read ``added_tokens.json``, which versions without ``added_tokens_decoder`` wrote."""
    path = directory / "added_tokens.json"
    if not lies_there(path):
        return {}
    ids = decode_json(path, dict[str, int], MAX_CONFIG_BYTES)
    return {id: FlaggedToken(text, special=text in special) for text, id in ids.items()}


def _default_template(found: str | list[_NamedTemplate] | None, path: Path) -> str | None:
    if not isinstance(found, list):
        return found
    templates = {each.name: each.template for each in found}
    if templates and "default" not in templates:
        names = shown(", ".join(map(quoted, sorted(templates))))
        raise TokenizerError(
            f"{path}: chat_template has none named default, but {names}; save the right one as chat_template.jinja"
        )
    return templates.get("default")


def _text_of(token: _Said) -> str:
    return token if isinstance(token, str) else token.content
