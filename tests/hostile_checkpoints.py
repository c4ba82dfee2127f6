"""Checkpoints that somebody made to hang or fill whoever opens them: at least thirty for each reader.

A case is a sound small checkpoint of which one file has been replaced. Nothing here uses the product's readers; formats
are written by hand.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from llama.checkpoint.opening import open_source
from llama.checkpoint.splitting import split
from tests.small_checkpoints import (
    byte_tokens,
    gguf_name,
    hidden_dim,
    params,
    random_llama,
    weights,
    write_hugging_face,
    write_meta,
)
from tests.volumes import SOAK

Content = bytes | Callable[[Path], object]
"""What a file holds; or what makes something else in its place."""

PART = "model-00001-of-00001.safetensors"
READERS = ("gguf", "safetensors", "pth", "config.json", "params.json", "tokenizer.json", "tokenizer.model", "template")
SIZES = params(dim=16, n_layers=2, n_heads=2, n_kv_heads=1, multiple_of=16, vocab_size=264)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Case:
    """One checkpoint.

    Attributes:
        reader: which reader it is for.
        name: what is wrong with it.
        base: which sound checkpoint it is made of: ``gguf``, ``meta``, ``hf``, ``indexed`` or ``edge``.
        file: which file of that is replaced.
        content: by what.
        known: it hung or took gigabytes once, or is of that kind; it is opened in every run, and must be refused.
    """

    reader: str
    name: str
    base: str
    file: str
    content: Content
    known: bool = False

    def make(self, bases: Bases, directory: Path) -> Path:
        """The checkpoint, in ``directory``, which is made."""
        if self.base == "gguf":
            directory.mkdir()
        else:
            shutil.copytree(bases.directories[self.base], directory)
        path = directory / self.file
        path.unlink(missing_ok=True)
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content)
        if self.base == "edge":
            self._list_anew(directory)
        return path if self.base == "gguf" else directory

    def _list_anew(self, directory: Path) -> None:
        """A half's maker writes its manifest, too."""
        manifest = directory / "manifest.json"
        if self.file != manifest.name:
            listed = json.loads(manifest.read_text())
            path = directory / self.file
            listed["files"].setdefault(self.file, {"sha256": "0" * 64})["bytes"] = (
                path.stat().st_size if (path.is_file()) else 100
            )
            manifest.write_text(json.dumps(listed))


class Bases:
    """The sound checkpoints, made once."""

    def __init__(self, directory: Path, golden: Path) -> None:
        self.directories = {name: directory / name for name in ("meta", "hf", "out")}
        tokenizer = golden / "tiny-llama3" / "tokenizer.model"
        release = SIZES | {"vocab_size": 520}
        write_meta(self.directories["meta"], release, weights(release), tokenizer)
        small = {"hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        write_hugging_face(self.directories["hf"], random_llama(num_key_value_heads=1, **small), "1GB")
        self._index(directory / "indexed")
        split(open_source(self.directories["meta"]), self.directories["out"])
        self.directories["edge"] = self.directories["out"] / "edge"

    def _index(self, directory: Path) -> None:
        """The Hugging Face directory with an index, which counts where there is no model.safetensors."""
        shutil.copytree(self.directories["hf"], directory)
        (directory / "model.safetensors").rename(directory / PART)
        with safetensors.safe_open(directory / PART, framework="pt") as file:
            weight_map = dict.fromkeys(file.keys(), PART)
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        self.directories["indexed"] = directory

    def read(self, base: str, file: str) -> bytes:
        """A file of one of them."""
        return (self.directories[base] / file).read_bytes()


def all_cases(bases: Bases) -> list[Case]:
    """Every case, in the order of the readers."""
    tables = (gguf_cases, safetensors_cases, pth_cases, config_cases, params_cases, tokenizer_json_cases,
              tokenizer_model_cases, template_cases)  # fmt: skip
    return [case for table in tables for case in table(bases)]


# ---- what is not a file, or is no file of any kind


def fifo(path: Path) -> None:
    """A pipe: whoever opens it waits until somebody writes."""
    os.mkfifo(path)


def later(make: Callable[[], bytes]) -> Callable[[Path], object]:
    """A file of what this gives: megabytes, made only if the case is."""
    return lambda path: path.write_bytes(make())


def link_to(target: str) -> Callable[[Path], None]:
    """A link, to a device for one."""
    return lambda path: path.symlink_to(target)


def in_circles(path: Path) -> None:
    """A link to a link to itself."""
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)


def sparse(size: int) -> Callable[[Path], None]:
    """A file of so many zeros, of which none is on the disk."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def then_sparse(data: bytes, size: int) -> Callable[[Path], None]:
    """A file that begins so and goes on with zeros, of which none is on the disk."""

    def make(path: Path) -> None:
        path.write_bytes(data)
        os.truncate(path, size)

    return make


def no_files() -> dict[str, tuple[Content, bool]]:
    """In place of any file; and whether it is a known case."""
    return {
        "pipe": (fifo, True),
        "endless device": (link_to("/dev/zero"), True),
        "terminal": (link_to("/dev/tty"), False),
        "directory": (Path.mkdir, False),
        "link to itself": (in_circles, False),
        "a terabyte of zeros": (sparse(1 << 40), True),
        "empty": (b"", False),
        "noise": (random.Random(1).randbytes(200_000), False),
        "newlines": (b"\n" * 300_000, False),
    }


def json_texts() -> dict[str, tuple[Content, bool]]:
    """In place of any JSON file."""
    return {
        "deep lists": (b"[" * 1_000_000, False),
        "deep objects": (b'{"a":' * 200_000, False),
        "closed depth": (later(lambda: b"[" * 500_000 + b"]" * 500_000), False),
        "many values": (later(lambda: b'{"x":[' + b"0," * 3_000_000 + b"0]}"), True),
        "many lists": (later(lambda: b'{"x":[' + b"[]," * 2_500_000 + b"[]]}"), True),
        "long text": (later(lambda: b'{"x":"' + b"a" * 5_000_000 + b'"}'), False),
        "a list": (b"[]", False),
        "null": (b"null", False),
        "UTF-16": ('{"x": 1}'.encode("utf-16"), False),
        "cut": (b'{"x": ', False),
    }


def replaced(reader: str, base: str, file: str, contents: Mapping[str, tuple[Content, bool]]) -> Iterator[Case]:
    """A case of each content."""
    for name, (content, known) in contents.items():
        yield Case(reader, f"{file}: {name}" if base != "gguf" else name, base, file, content, known)


def not_always(contents: Mapping[str, tuple[Content, bool]]) -> dict[str, tuple[Content, bool]]:
    """The same for a second place that the same reader reads."""
    return {name: (content, False) for name, (content, _) in contents.items()}


# ---- GGUF

U8, U32, I32, F32, BOOL, TEXT, LIST, U64 = 0, 4, 5, 6, 7, 8, 9, 10
_FORMS = {U8: "<B", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q"}


def text_of(text: str | bytes) -> bytes:
    """As GGUF writes it: length, bytes."""
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def list_of(kind: int, values: list[Any], count: int | None = None) -> tuple[int, bytes]:
    """An array field, which may lie about its length."""
    if kind == TEXT:
        body = b"".join(map(text_of, values))
    else:
        body = b"".join(struct.pack(_FORMS[kind], value) for value in values)
    return LIST, struct.pack("<IQ", kind, len(values) if count is None else count) + body


def number(kind: int, value: float) -> tuple[int, bytes]:
    """A scalar field."""
    return kind, struct.pack(_FORMS[kind], value)


def gguf_fields() -> dict[str, tuple[int, bytes]]:
    """What a sound file says."""
    numbers = {
        "embedding_length": 16,
        "block_count": 2,
        "feed_forward_length": hidden_dim(SIZES),
        "context_length": 512,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
    }
    return {
        "general.architecture": (TEXT, text_of("llama")),
        **{f"llama.{key}": number(U32, value) for key, value in numbers.items()},
        "llama.rope.freq_base": number(F32, 10000.0),
        "llama.attention.layer_norm_rms_epsilon": number(F32, 1e-5),
        "tokenizer.ggml.model": (TEXT, text_of("gpt2")),
        "tokenizer.ggml.pre": (TEXT, text_of("smollm")),
        "tokenizer.ggml.tokens": list_of(TEXT, [*byte_tokens(), "ab", "<|im_start|>", "<|im_end|>"]),
        "tokenizer.ggml.token_type": list_of(I32, [1] * 257 + [3] * 2),
        "tokenizer.ggml.merges": list_of(TEXT, ["a b"]),
    }


Infos = dict[str, tuple[tuple[int, ...], int, int]]
"""Dimensions, from the fastest; type; offset."""


def gguf_infos() -> tuple[Infos, int]:
    """Where a sound file's tensors lie, and how many bytes they take."""
    infos, at = Infos(), 0
    for name, tensor in weights(SIZES).items():
        infos[gguf_name(name)] = (tuple(tensor.shape[::-1]), 0, at)
        at += -(-tensor.numel() * 4 // 32) * 32
    return infos, at


def gguf_bytes(
    fields: Mapping[str, tuple[int, bytes] | None] | None = None, infos: Infos | None = None, version: int = 3,
    n_tensors: int | None = None, n_fields: int | None = None, twice: str = "",
) -> bytes:  # fmt: skip
    """A file that is sound but for what is given; a field that is None is left out."""
    said = {key: value for key, value in (gguf_fields() | dict(fields or {})).items() if value is not None}
    sound, size = gguf_infos()
    listed = sound | (infos or {})
    pairs = [*said.items(), *((key, said[key]) for key in [twice] if key in said)]
    tensors = [*listed.items(), *((name, listed[name]) for name in [twice] if name in listed)]
    header = [b"GGUF", struct.pack("<I", version)]
    header.append(struct.pack("<QQ", len(tensors) if n_tensors is None else n_tensors,
                              len(pairs) if n_fields is None else n_fields))  # fmt: skip
    header += [text_of(key) + struct.pack("<I", kind) + value for key, (kind, value) in pairs]
    for name, (shape, kind, offset) in tensors:
        header.append(text_of(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
    data = b"".join(header)
    return data + bytes(-len(data) % 32) + bytes(size)


def gguf_cases(bases: Bases) -> Iterator[Case]:
    """Files of Llama architecture."""
    sound = gguf_bytes()
    tokens = [*byte_tokens(), "ab", "<|im_start|>", "<|im_end|>"]
    shape, _, offset = gguf_infos()[0]["output.weight"]
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text_of("x")

    def vocabulary(new: list[str], **more: Any) -> bytes:
        return gguf_bytes({
            "tokenizer.ggml.tokens": list_of(TEXT, [*new, *tokens]),
            "tokenizer.ggml.token_type": list_of(I32, [1] * (len(new) + 257) + [3] * 2), **more,
        })  # fmt: skip

    def numbered(key: str, kind: int, value: float) -> bytes:
        return gguf_bytes({key: number(kind, value)})

    def output(*shape: int, kind: int = 0, offset: int = offset) -> bytes:
        return gguf_bytes(infos={"output.weight": (shape, kind, offset)})

    contents: dict[str, tuple[Content, bool]] = {
        "array of 2^62 bytes": (start + struct.pack("<IIQ", LIST, U8, 1 << 62), True),
        "array of 2^62 texts": (start + struct.pack("<IIQ", LIST, TEXT, 1 << 62), True),
        "array of 2^64 - 1 numbers": (start + struct.pack("<IIQ", LIST, U64, (1 << 64) - 1), True),
        "arrays of arrays": (start + struct.pack("<I", LIST) + struct.pack("<IQ", LIST, 1) * 5000, True),
        "key of 2^40 bytes": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 40), False),
        "text of 2^63 bytes": (start + struct.pack("<IQ", TEXT, 1 << 63), False),
        "2^40 tensors": (gguf_bytes(n_tensors=1 << 40), True),
        "2^60 fields": (gguf_bytes(n_fields=1 << 60), True),
        "10^9 layers": (numbered("llama.block_count", U32, 10**9), True),
        "2^64 - 1 layers": (numbered("llama.block_count", U64, 2**64 - 1), True),
        "no layers": (numbered("llama.block_count", U32, 0), False),
        "layers as a text": (gguf_bytes({"llama.block_count": (TEXT, text_of("2"))}), False),
        "layers as a list": (gguf_bytes({"llama.block_count": list_of(U32, [2])}), False),
        "dimensions whose product overflows": (output(1 << 32, 1 << 32), True),
        "dimensions of 2^63": (output(1 << 63, 1 << 63, 1 << 63, 1 << 63), False),
        "dimension of 0": (output(16, 0), False),
        "60 dimensions": (output(*[1] * 60), False),
        "2^32 - 1 dimensions": (
            sound.replace(
                text_of("output.weight") + struct.pack("<I", 2), text_of("output.weight") + struct.pack("<I", 2**32 - 1)
            ),
            False,
        ),
        "offset beyond the file": (output(*shape, offset=len(sound)), False),
        "offset of 2^63": (output(*shape, offset=1 << 63), False),
        "all tensors in one place": (
            gguf_bytes(infos={name: (dims, kind, 0) for name, (dims, kind, _) in gguf_infos()[0].items()}),
            False,
        ),
        "unknown tensor type": (output(*shape, kind=99), False),
        "rows that are no blocks": (output(*shape, kind=2), False),
        "unknown field type": (start + struct.pack("<I", 77), False),
        "alignment 0": (numbered("general.alignment", U32, 0), True),
        "alignment 3": (numbered("general.alignment", U32, 3), False),
        "alignment 2^31": (numbered("general.alignment", U32, 1 << 31), False),
        "alignment as a text": (gguf_bytes({"general.alignment": (TEXT, text_of("32"))}), False),
        "field twice": (gguf_bytes(twice="llama.block_count"), False),
        "tensor twice": (gguf_bytes(twice="output.weight"), False),
        "width 0": (numbered("llama.embedding_length", U32, 0), False),
        "width 2^32 - 1": (numbered("llama.embedding_length", U32, 2**32 - 1), False),
        "width 2^64 - 2": (numbered("llama.embedding_length", U64, 2**64 - 2), False),
        "no heads": (numbered("llama.attention.head_count", U32, 0), False),
        "no key heads": (numbered("llama.attention.head_count_kv", U32, 0), False),
        "feed-forward width 2^60": (numbered("llama.feed_forward_length", U64, 1 << 60), False),
        "context of 10^18": (numbered("llama.context_length", U64, 10**18), True),
        "context of 0": (numbered("llama.context_length", U32, 0), False),
        "rotary base 0": (numbered("llama.rope.freq_base", F32, 0), False),
        "rotary base not a number": (numbered("llama.rope.freq_base", F32, float("nan")), False),
        "epsilon infinite": (numbered("llama.attention.layer_norm_rms_epsilon", F32, float("inf")), False),
        "version 1": (gguf_bytes(version=1), False),
        "big-endian": (gguf_bytes(version=3 << 24), False),
        "rotary table of another type": (gguf_bytes(infos={"rope_freqs.weight": ((32,), 2, 0)}), False),
        "foreign tensors": (
            later(lambda: gguf_bytes(infos={f"\x1b[2J\n{i}": ((1,), 0, 0) for i in range(2000)})),
            False,
        ),
        "120,000 tensors": (later(lambda: gguf_bytes(infos={f"t{i}": ((1,), 0, 0) for i in range(120_000)})), False),
        "60,000 tensors": (later(lambda: gguf_bytes(infos={f"t{i}": ((1,), 0, 0) for i in range(60_000)})), False),
        "3,000,000 bytes as elements": (
            later(lambda: gguf_bytes({"x": (LIST, struct.pack("<IQ", U8, 3_000_000) + bytes(3_000_000))})),
            True,
        ),
        "1,900,000 empty texts": (
            later(lambda: gguf_bytes({"x": (LIST, struct.pack("<IQ", TEXT, 1_900_000) + bytes(15_200_000))})),
            False,
        ),
        "token of 65,536 letters": (vocabulary(["a" * 65_536]), True),
        "tokens of 4,096 letters": (vocabulary([chr(97 + i) * 4096 for i in range(20)]), False),
        "600,000 tokens": (later(lambda: vocabulary([f"t{i}" for i in range(600_000)])), False),
        "300,000 tokens": (later(lambda: vocabulary([f"t{i}" for i in range(300_000)])), False),
        "20,000 special tokens": (
            later(
                lambda: gguf_bytes(
                    {
                        "tokenizer.ggml.tokens": list_of(TEXT, [*tokens, *(f"<{i}>" for i in range(20_000))]),
                        "tokenizer.ggml.token_type": list_of(I32, [1] * 257 + [3] * 20_002),
                    }
                )
            ),
            True,
        ),
        "token types of 2^31": (gguf_bytes({"tokenizer.ggml.token_type": list_of(I32, [-(2**31)] * 259)}), False),
        "tokens that are not UTF-8": (gguf_bytes({"tokenizer.ggml.tokens": list_of(TEXT, [b"\xff"] * 259)}), False),
        "a merge of a megabyte": (
            gguf_bytes({"tokenizer.ggml.merges": list_of(TEXT, ["a " + "b" * 1_000_000])}),
            False,
        ),
        "500,000 merges": (
            later(lambda: gguf_bytes({"tokenizer.ggml.merges": list_of(TEXT, ["a b"] * 500_000)})),
            False,
        ),
        "merges that are one letter": (gguf_bytes({"tokenizer.ggml.merges": list_of(TEXT, ["a"])}), False),
        "template of 10 MB": (
            later(lambda: gguf_bytes({"tokenizer.chat_template": (TEXT, text_of("<|im_start|>" * 900_000))})),
            True,
        ),
        "template that loops": (gguf_bytes({"tokenizer.chat_template": (TEXT, text_of(LOOP))}), False),
        "cut in the fields": (sound[:700], False),
        "cut in the tensors": (sound[:-64], False),
        "key that is not UTF-8": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text_of(b"\xff\xfe"), False),
    }
    yield from replaced("gguf", "gguf", "m.gguf", no_files() | contents)


# ---- safetensors


def safetensors_bytes(header: bytes | Mapping[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A file with that header, whose length may be a lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def safetensors_cases(bases: Bases) -> Iterator[Case]:
    """Files beside a sound config.json; and indexes."""
    sound = bases.read("hf", "model.safetensors")
    (length,) = struct.unpack("<Q", sound[:8])
    header, data = json.loads(sound[8 : 8 + length]), sound[8 + length :]

    def with_norm(**changes: Any) -> bytes:
        return safetensors_bytes(header | {"model.norm.weight": header["model.norm.weight"] | changes}, data)

    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    none = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    contents: dict[str, tuple[Content, bool]] = {
        "header of 2^60 bytes": (safetensors_bytes(b"{}", length=1 << 60), True),
        "header of 2^64 - 1 bytes": (safetensors_bytes(b"{}", length=(1 << 64) - 1), True),
        "header of 100 MB": (then_sparse(safetensors_bytes(b"{}", length=99_000_000), 100_000_000), True),
        "header of 90 MB of tensors": (
            later(
                lambda: safetensors_bytes(
                    b"{"
                    + b",".join(b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(1_500_000))
                    + b"}"
                )
            ),
            False,
        ),
        "50,000 tensors": (later(lambda: safetensors_bytes({f"t{i}": none for i in range(50_000)})), False),
        "header longer than the file": (safetensors_bytes(b"{}", length=1000), False),
        "header of 0 bytes": (safetensors_bytes(b""), False),
        "header that is no JSON": (safetensors_bytes(b"\xff" * 100), False),
        "header that is a list": (safetensors_bytes(b"[]"), False),
        "deep header": (later(lambda: safetensors_bytes(b'{"a":' * 100_000)), False),
        "offsets beyond the file": (with_norm(data_offsets=[0, 1 << 40]), False),
        "offsets of 2^63": (with_norm(data_offsets=[1 << 63, (1 << 63) + 64]), False),
        "offsets backwards": (with_norm(data_offsets=[64, 0]), False),
        "negative offsets": (with_norm(data_offsets=[-64, 0]), False),
        "offsets of 10^400": (
            safetensors_bytes(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1' + b"0" * 400 + b"]}}"),
            False,
        ),
        "shape whose product overflows": (with_norm(shape=[1 << 32, 1 << 32]), False),
        "shape of 2^63": (with_norm(shape=[1 << 63]), False),
        "shape of another size": (with_norm(shape=[17]), False),
        "shape of 0": (with_norm(shape=[0], data_offsets=[0, 0]), False),
        "1,000 dimensions": (with_norm(shape=[1] * 1000), False),
        "unknown dtype": (with_norm(dtype="F999"), False),
        "8 bits": (with_norm(dtype="U8"), False),
        "overlapping": (safetensors_bytes({"a": one, "b": one}, bytes(4)), False),
        "a hole": (safetensors_bytes({"a": one}, bytes(400)), False),
        "a name twice": (
            safetensors_bytes(
                b'{"a":' + json.dumps(one).encode() + b',"a":' + json.dumps(one).encode() + b"}", bytes(4)
            ),
            False,
        ),
        "a name of a megabyte": (safetensors_bytes({"a" * 1_000_000: one}, bytes(4)), False),
        "a name of signs": (safetensors_bytes({"\x1b[2J\n\u202e": one}, bytes(4)), False),
        "metadata of a megabyte": (safetensors_bytes({"__metadata__": {"a": "b" * 1_000_000}} | header, data), False),
        "metadata that is a list": (safetensors_bytes({"__metadata__": []} | header, data), False),
        "data cut": (sound[:-100], False),
        "data too long": (sound + bytes(100), False),
    }
    yield from replaced("safetensors", "hf", "model.safetensors", no_files() | contents)

    def index(listed: Any) -> bytes:
        return json.dumps({"metadata": {}, "weight_map": listed}).encode()

    indexes: dict[str, tuple[Content, bool]] = {
        "10^6 files": (
            later(lambda: b'{"weight_map":{' + b",".join(b'"t%d":"f%d"' % (i, i) for i in range(1_000_000)) + b"}}"),
            False,
        ),
        "20,000 files": (later(lambda: index({f"t{i}": f"f{i}" for i in range(20_000)})), False),
        "10^5 names of one file": (later(lambda: index({f"t{i}": PART for i in range(100_000)})), False),
        "no file": (index({}), False),
        "file elsewhere": (index({"a": "../../etc/passwd"}), False),
        "device": (index({"a": "/dev/zero"}), False),
        "NUL in the name": (index({"a": "a\0b"}), False),
        "name of a megabyte": (index({"a": "b" * 1_000_000}), False),
        "the directory itself": (index({"a": "."}), False),
        "number for a name": (index({"a": 1}), False),
        "itself": (index({"a": "model.safetensors.index.json"}), False),
    }
    name = "model.safetensors.index.json"
    yield from replaced("safetensors", "indexed", name, json_texts() | indexes)


# ---- .pth


def archive(*records: tuple[str, bytes], deflated: str = "", comment: bytes = b"") -> bytes:
    """A zip of these records, each beginning at a multiple of 64 as torch writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in records:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED if name == deflated else zipfile.ZIP_STORED
            info.extra = bytes(-(out.tell() + 30 + len(name)) % 64)
            with warnings.catch_warnings(action="ignore"):  # a name twice is meant
                file.writestr(info, data)
        file.comment = comment
    return out.getvalue()


def pickled(*items: bytes) -> bytes:
    """A pickle of a dict of these names and values."""
    return b"\x80\x02}(" + b"".join(items) + b"u."


def unicode_of(text: str) -> bytes:
    """The opcode of a text."""
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def integer(value: int) -> bytes:
    """The opcode of a number of any size."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tensor_of(
    shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), offset: int = 0, count: int = 4, key: str = "0",
    storage: str = "torch\nFloatStorage\n", rebuild: str = "torch._utils\n_rebuild_tensor_v2\n",
) -> bytes:  # fmt: skip
    """The opcodes of a tensor."""
    numbers = [b"(" + b"".join(map(integer, values)) + b"t" for values in (shape, strides)]
    saved = b"((" + unicode_of("storage") + b"c" + storage.encode() + unicode_of(key) + unicode_of("cpu")
    return (b"c" + rebuild.encode() + saved + integer(count) + b"tQ" + integer(offset) + b"".join(numbers)
            + b"\x89ccollections\nOrderedDict\n)RtR")  # fmt: skip


def pth(pickle: bytes, data: bytes = bytes(16), **more: Any) -> bytes:
    """A file of that pickle and one storage."""
    return archive(("a/data.pkl", pickle), ("a/data/0", data), ("a/version", b"3\n"), **more)


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """The same with other bytes there; ``at`` may count from the end."""
    at %= len(data)
    return data[:at] + new + data[at + len(new) :]


def pth_cases(bases: Bases) -> Iterator[Case]:
    """Shards of a release; and of a half."""
    sound = bases.read("meta", "consolidated.00.pth")
    one = pth(pickled(unicode_of("norm.weight"), tensor_of()))
    central = one.index(b"PK\x01\x02")
    norm = unicode_of("norm.weight")
    nested = b"\x80\x02}(" + b")" + b"q\x00h\x00\x86" * 60 + unicode_of("x") + b"u."

    def bomb(path: Path) -> None:
        packed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        with packed as file, file.open("a/data.pkl", "w") as record:
            for _ in range(2000 if SOAK else 100):
                record.write(bytes(1 << 20))

    def legacy(path: Path) -> None:
        torch.save({"norm.weight": torch.ones(4)}, path, _use_new_zipfile_serialization=False)

    def tensors(**changes: Any) -> tuple[Content, bool]:
        return pth(pickled(norm, tensor_of(**changes))), False

    def called(name: str, arguments: bytes) -> bytes:
        return pth(pickled(norm, b"c" + name.encode() + arguments + b"R"))

    contents: dict[str, tuple[Content, bool]] = {
        "data.pkl of deflated zeros": (bomb, True),
        "deflated storage": (pth(pickled(norm, tensor_of()), bytes(1 << 20), deflated="a/data/0"), True),
        "data.pkl of 4 MB": (later(lambda: pth(b"\x80\x02" + b"}" * 4_000_000 + b".")), True),
        "half a million empty dicts": (pth(b"\x80\x02" + b"}" * 500_000 + b"."), False),
        "half a million marks": (pth(b"\x80\x02" + b"(" * 500_000 + b"."), False),
        "a tuple of a tuple of …": (pth(b"\x80\x02)" + b"\x85" * 500_000 + b"."), True),
        "tuples of themselves as a key": (pth(nested), True),
        "a dict in itself": (pth(b"\x80\x02}q\x00(" + norm + b"h\x00u."), False),
        "bytearray of 10^12": (called("builtins\nbytearray\n", integer(10**12) + b"\x85"), True),
        "FloatTensor of 10^11": (called("torch\nFloatTensor\n", integer(10**11) + b"\x85"), True),
        "Counter": (called("collections\nCounter\n", b")"), False),
        "eval": (called("builtins\neval\n", unicode_of("1+1") + b"\x85"), False),
        "system": (called("os\nsystem\n", unicode_of("true") + b"\x85"), False),
        "an ordered dict of a list": (called("collections\nOrderedDict\n", b"]\x85"), False),
        "10^12 elements by a stride of 0": (pth(pickled(norm, tensor_of((10**12,), (0,)))), True),
        "10^6 times 10^6 by strides of 0": (pth(pickled(norm, tensor_of((10**6, 10**6), (0, 0)))), True),
        "negative stride": tensors(strides=(-1,), offset=3),
        "negative size": tensors(shape=(-4,)),
        "offset beyond": tensors(offset=1),
        "offset of 2^62": tensors(offset=1 << 62),
        "100 dimensions": tensors(shape=(1,) * 100, strides=(1,) * 100),
        "strides that lack one": tensors(shape=(2, 2)),
        "storage of 2^62": tensors(count=1 << 62),
        "storage of 2^600": tensors(count=1 << 600),
        "storage larger than its record": tensors(count=5),
        "negative storage": tensors(count=-4),
        "storage that is not there": tensors(key="7"),
        "storage elsewhere": tensors(key="../data.pkl"),
        "unknown storage": tensors(storage="torch\nQInt8Storage\n"),
        "no storage": tensors(storage="torch\nfloat32\n"),
        "nested tensor": tensors(rebuild="torch._utils\n_rebuild_nested_tensor\n"),
        "quantised tensor": tensors(rebuild="torch._utils\n_rebuild_qtensor\n"),
        "9,000 tensors": (
            later(lambda: pth(pickled(*(unicode_of(f"t{i}") + tensor_of() for i in range(9000))))),
            False,
        ),
        "names of signs": (pth(pickled(unicode_of("\x1b[2J\n\u202e"), tensor_of())), False),
        "a name of a megabyte": (pth(pickled(unicode_of("a" * 1_000_000), tensor_of())), False),
        "text of 4 GB": (pth(b"\x80\x02X\xff\xff\xff\xff."), False),
        "memo that is not there": (pth(b"\x80\x02j\xff\xff\xff\xff."), False),
        "nothing on the stack": (pth(b"\x80\x02u."), False),
        "no end": (pth(b"\x80\x02}"), False),
        "protocol 5": (pth(b"\x80\x05\x95" + bytes(8) + b"}."), False),
        "a list of tensors": (pth(b"\x80\x02](" + tensor_of() + b"e."), False),
        "a dict of dicts": (pth(pickled(unicode_of("model"), b"}")), False),
        "numbers for names": (pth(pickled(b"K\x01", tensor_of())), False),
        "two data.pkl": (archive(("a/data.pkl", pickled()), ("b/data.pkl", pickled())), False),
        "a record twice": (archive(("a/data.pkl", pickled()), ("a/data.pkl", pickled())), False),
        "no data.pkl": (archive(("a/version", b"3\n")), False),
        "another byte order": (archive(("a/data.pkl", pickled()), ("a/byteorder", b"big")), False),
        "30,000 records": (
            later(lambda: archive(("a/data.pkl", pickled()), *((f"a/data/{i}", b"") for i in range(30_000)))),
            False,
        ),
        "120,000 records": (
            later(lambda: archive(("a/data.pkl", pickled()), *((f"a/data/{i}", b"") for i in range(120_000)))),
            False,
        ),
        "a comment": (pth(pickled(norm, tensor_of()), comment=b"x" * 60_000), False),
        "something before the archive": (bytes(100_000) + one, False),
        "records in one place": (patched(one, one.index(b"PK\x01\x02", central + 4) + 42, bytes(4)), False),
        "record of 4 GB": (patched(one, central + 20, b"\xfe\xff\xff\xff\xfe\xff\xff\xff"), False),
        "directory of 4 GB": (patched(one, -10, b"\xfe\xff\xff\xff"), False),
        "directory elsewhere": (patched(one, -6, b"\x00\x00\x00\x70"), False),
        "encrypted": (patched(one, central + 8, b"\x01"), False),
        "check sum": (patched(one, central + 16, b"abcd"), False),
        "before zip": (legacy, False),
        "cut": (sound[:-99], False),
        "TorchScript": (archive(("a/data.pkl", pickled()), ("a/constants.pkl", b"\x80\x02).")), False),
    }
    yield from replaced("pth", "meta", "consolidated.00.pth", no_files() | contents)
    yield from replaced("pth", "edge", "consolidated.00.pth", not_always(no_files() | contents))
    numbered = {
        "consolidated.99999999999999.pth": True,
        "consolidated.1000000.pth": True,
        "consolidated.00000.pth": False,
    }
    for name, known in numbered.items():
        yield Case("pth", f"a file {name}", "meta", name, sound, known)


# ---- config.json and params.json


def edited(original: bytes, **changes: Any) -> bytes:
    """JSON with other values, at the top or (``a__b``) in the object ``a``."""
    fields = json.loads(original)
    for key, value in changes.items():
        *outer, last = key.split("__")
        holder = fields
        for name in outer:
            holder = holder[name]
        holder[last] = value
    return json.dumps(fields).encode()


def spelt(original: bytes, key: str, value: bytes) -> bytes:
    """JSON with a value that is written so."""
    return edited(original, **{key: "HERE"}).replace(b'"HERE"', value)


BIG_NUMBERS = {
    "10^400": b"1" + b"0" * 400,
    "10^5000": b"1" + b"0" * 5000,
    "1e999": b"1e999",
    "not a number": b"NaN",
    "-1": b"-1",
    "0": b"0",
    "2^63": b"9223372036854775808",
    "10^18": b"1000000000000000000",
}


def numbered(original: bytes, keys: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[Content, bool]]:
    """Each key with those of the numbers."""
    return {
        f"{key} {name}": (spelt(original, key, BIG_NUMBERS[name]), False)
        for key, names in keys.items()
        for name in names
    }


def config_cases(bases: Bases) -> Iterator[Case]:
    """Hugging Face's config.json."""
    sound = bases.read("hf", "config.json")
    every = tuple(BIG_NUMBERS)
    contents: dict[str, tuple[Content, bool]] = {
        "10^9 layers": (edited(sound, num_hidden_layers=10**9), True),
        "10^18 layers": (edited(sound, num_hidden_layers=10**18), True),
        "context of 10^18": (edited(sound, max_position_embeddings=10**18), True),
        "vocabulary of 10^12": (edited(sound, vocab_size=10**12), False),
        "2^31 heads": (edited(sound, hidden_size=2**32, num_attention_heads=2**31), False),
        "10^9 heads": (edited(sound, hidden_size=2 * 10**9, num_attention_heads=10**9), False),
        "rotary base 0": (edited(sound, rope_parameters={"rope_type": "default", "rope_theta": 0}), False),
        "rotary base of 10^400": (edited(sound, rope_parameters={"rope_theta": 10**400}), False),
        "rotary kind of a megabyte": (edited(sound, rope_parameters={"rope_type": "x" * 900_000}), False),
        "rotary kind a list": (edited(sound, rope_parameters={"rope_type": [[]] * 1000}), False),
        "factor of 10^308": (
            edited(
                sound,
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 1e4,
                    "factor": 1e308,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            ),
            False,
        ),
        "architecture of signs": (edited(sound, model_type="\x1b[2J\n", architectures=["\n"] * 10_000), False),
        "epsilon negative": (edited(sound, rms_norm_eps=-1.0), False),
        "a key twice": (sound.replace(b"{", b'{"num_hidden_layers": 1000000000,', 1), False),
        "head_dim of 10^400": (edited(sound, head_dim=10**400), False),
        **numbered(
            sound,
            {
                "num_hidden_layers": every,
                "hidden_size": every,
                "intermediate_size": every,
                "vocab_size": ("10^400", "10^5000"),
                "rms_norm_eps": every,
                "rope_theta": every,
            },
        ),
    }
    yield from replaced("config.json", "hf", "config.json", no_files() | json_texts() | contents)


def params_cases(bases: Bases) -> Iterator[Case]:
    """Meta's params.json; and a half's, with its manifest."""
    sound, every = bases.read("meta", "params.json"), tuple(BIG_NUMBERS)
    contents: dict[str, tuple[Content, bool]] = {
        "10^9 layers": (edited(sound, n_layers=10**9), True),
        "10^18 layers": (edited(sound, n_layers=10**18), True),
        "900 layers": (edited(sound, n_layers=900), False),
        "multiple_of 0": (edited(sound, multiple_of=0), False),
        "multiple_of 10^18": (edited(sound, multiple_of=10**18), False),
        "vocabulary of 10^12": (edited(sound, vocab_size=10**12), True),
        "multiplier 1e308": (edited(sound, ffn_dim_multiplier=1e308), False),
        "multiplier negative": (edited(sound, ffn_dim_multiplier=-1.0), False),
        "nested in itself": (edited(sound, model={"model": {"model": {}}}), False),
        "10^5 unknown fields": (later(lambda: edited(sound, **{f"f{i}": i for i in range(50_000)})), False),
        "field of signs": (edited(sound, **{"\x1b[2J\n": 1}), False),
        **numbered(sound, {"n_layers": every, "dim": every, "n_heads": every, "norm_eps": every, "rope_theta": every}),
    }
    yield from replaced("params.json", "meta", "params.json", no_files() | json_texts() | contents)
    half = bases.read("edge", "params.json")
    halves: dict[str, tuple[Content, bool]] = {
        "10^9 layers": (edited(half, n_layers=10**9), True),
        "10^9 layers, cut behind the last but one": (edited(half, n_layers=10**9, split__split_layer=10**9 - 1), True),
        "900 layers": (edited(half, n_layers=900, split__split_layer=899), False),
        "10^9 ranks": (
            edited(
                half,
                dim=2 * 10**9,
                n_heads=10**9,
                n_kv_heads=1,
                vocab_size=10**9,
                multiple_of=10**9,
                split__model_parallel_size=10**9,
            ),
            True,
        ),
        "width of 2^31": (edited(half, dim=2**31 - 2, n_heads=1, n_kv_heads=1), True),
        "vocabulary of 2^31": (edited(half, vocab_size=2**31 - 1), True),
        "context of 10^18": (edited(half, context_length=10**18), True),
        "pattern that takes for ever": (edited(half, tokenizer__pattern="(a+)+$"), True),
        "pattern that fills the memory": (edited(half, tokenizer__pattern="((a{1000}){1000}){1000}"), True),
        "10^5 special tokens": (
            later(lambda: edited(half, tokenizer__special_tokens={f"<{i}>": 514 + i for i in range(100_000)})),
            True,
        ),
        "special token at 2^31": (edited(half, tokenizer__special_tokens={"<|eot_id|>": 2**31}), True),
        "special token at 2^63": (edited(half, tokenizer__special_tokens={"<|eot_id|>": 2**63}), True),
        "special token at -1": (edited(half, tokenizer__special_tokens={"<|eot_id|>": -1}), False),
        "special token at 10^400": (edited(half, tokenizer__special_tokens={"<|eot_id|>": 10**400}), False),
        "special token of a megabyte": (edited(half, tokenizer__special_tokens={"x" * 1_000_000: 514}), False),
        "system message of 3 MB": (edited(half, tokenizer__default_system="x" * 3_000_000), False),
        "chat format of signs": (edited(half, tokenizer__chat_format="\x1b[2J\n"), False),
        "dtype of signs": (edited(half, split__dtype="\n" * 1000), False),
        "format 10^18": (edited(half, split__format=10**18), False),
        "half of signs": (edited(half, split__half="\x1b[2J\n"), False),
        "fingerprint of a megabyte": (edited(half, split__fingerprint="0" * 1_000_000), False),
        **numbered(
            half,
            {
                "n_layers": every,
                "dim": every,
                "context_length": every,
                "split__split_layer": every,
                "split__model_parallel_size": every,
                "rope_theta": every,
                "rope_scaling_factor": every,
            },
        ),
    }
    yield from replaced("params.json", "edge", "params.json", no_files() | json_texts() | halves)
    manifest = bases.read("edge", "manifest.json")
    lies: dict[str, tuple[Content, bool]] = {
        "10^5 files": (
            later(lambda: json.dumps({"files": {f"f{i}": {"bytes": 1, "sha256": ""} for i in range(50_000)}}).encode()),
            False,
        ),
        "file of 10^400": (manifest.replace(b'"bytes": ', b'"bytes": 1' + b"0" * 400, 1), False),
        "file of -1": (manifest.replace(b'"bytes": ', b'"bytes": -', 1), False),
        "file of NaN": (manifest.replace(b'"bytes": ', b'"bytes": NaN', 1), False),
    }
    yield from replaced("params.json", "edge", "manifest.json", no_files() | json_texts() | lies)


# ---- tokenizers


def tokenizer_json_cases(bases: Bases) -> Iterator[Case]:
    """Hugging Face's tokenizer.json."""
    sound = bases.read("hf", "tokenizer.json")
    vocab: dict[str, int] = json.loads(sound)["model"]["vocab"]
    merges: list[Any] = json.loads(sound)["model"]["merges"]

    def more(new: dict[str, int], new_merges: list[Any] | None = None, ignore_merges: bool = False) -> bytes:
        return edited(sound, model__vocab=vocab | new, model__merges=[*merges, *(new_merges or [])],
                      model__ignore_merges=ignore_merges)  # fmt: skip

    def added(*tokens: tuple[int, str]) -> bytes:
        return edited(sound, added_tokens=[{"id": id, "content": text} for id, text in tokens])

    doubling = ["a" * (1 << i) for i in range(1, 13)]
    pairs = ["ab" * (1 << i) for i in range(11)]
    contents: dict[str, tuple[Content, bool]] = {
        "token of 65,536 letters": (more({"a" * 65_536: 260}), True),
        "token of 65,536 letters taken whole": (more({"a" * 65_536: 260}, ignore_merges=True), True),
        "tokens that double": (
            more(
                {token: 260 + i for i, token in enumerate(doubling)},
                [[token[: len(token) // 2]] * 2 for token in doubling],
            ),
            False,
        ),
        "500 tokens of 4,000 letters": (more({chr(97 + i % 26) * 3500 + str(i): 260 + i for i in range(500)}), False),
        "600,000 tokens": (later(lambda: more({f"t{i}": 260 + i for i in range(600_000)})), False),
        "250,000 tokens": (later(lambda: more({f"t{i}": 260 + i for i in range(250_000)}, ignore_merges=True)), False),
        "token at 2^31": (more({"zz": 2**31}), True),
        "token at 2^63": (more({"zz": 2**63}), True),
        "token at 10^400": (more({"zz": 10**400}), False),
        "token at -1": (more({"zz": -1}), False),
        "special token at 2^31": (added((2**31, "<|im_start|>"), (258, "<|im_end|>")), True),
        "special token at 2^63": (added((2**63, "<|im_start|>")), True),
        "10^6 special tokens": (
            later(
                lambda: (
                    b'{"added_tokens":['
                    + b",".join(b'{"id":%d,"content":"<%d>"}' % (i, i) for i in range(1_000_000))
                    + b"],"
                    + sound[1:]
                )
            ),
            False,
        ),
        "20,000 special tokens": (later(lambda: added(*((257 + i, f"<{i}>") for i in range(20_000)))), True),
        "special token of a megabyte": (added((257, "x" * 1_000_000)), False),
        "special tokens of one text": (added((257, "<a>"), (258, "<a>")), False),
        "special token of no text": (added((257, "")), False),
        "a lone surrogate": (sound.replace(b"<|im_start|>", b"\\ud800"), False),
        "a merge of a megabyte": (more({}, [["a", "b" * 1_000_000]]), False),
        "a merge of three": (more({}, [["a", "b", "c"]]), False),
        "500,000 merges": (later(lambda: more({}, [["a", "b"]] * 500_000)), False),
        "merges as numbers": (more({}, [1]), False),
        "no tokens": (edited(sound, model__vocab={}, model__merges=[]), False),
        "vocabulary a list": (edited(sound, model__vocab=[]), False),
        "model of signs": (edited(sound, model__type="\x1b[2J\n" * 100_000), False),
        "normalizer of signs": (edited(sound, normalizer={"type": "\n" * 100_000}), False),
        "10^5 steps": (edited(sound, pre_tokenizer={"pretokenizers": [{"type": "x"}] * 100_000}), False),
        "steps that are numbers": (edited(sound, pre_tokenizer={"pretokenizers": [1, 2]}), False),
        "steps that are none": (edited(sound, pre_tokenizer={"pretokenizers": None}), False),
        "a pattern that takes for ever": (
            edited(sound, pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}}),
            False,
        ),
        "1,990,000 tokens": (
            later(
                lambda: edited(sound, model__vocab={}).replace(
                    b'"vocab": {}', b'"vocab":{' + b",".join(b'"%020d":%d' % (i, i) for i in range(1_990_000)) + b"}"
                )
            ),
            False,
        ),
        "250,000 tokens and 490,000 merges": (
            later(
                lambda: more(
                    {f"{chr(97 + i // 10_000)}{i % 10_000:04}": 260 + i for i in range(250_000)},
                    [["a", "b"]] * 490_000,
                )
            ),
            False,
        ),
        "1.5 MiB of tokens that are merged in vain": (
            later(
                lambda: more(
                    {
                        token: 260 + i
                        for i, token in enumerate([*pairs[1:], *("ab" * 2000 + f"{i:05}" for i in range(390))])
                    },
                    [[token, token] for token in pairs[:-1]],
                    ignore_merges=True,
                )
            ),
            False,
        ),
        "70 MB": (then_sparse(sound, 70_000_000), True),
    }
    yield from replaced("tokenizer.json", "hf", "tokenizer.json", no_files() | json_texts() | contents)


def tokenizer_model_cases(bases: Bases) -> Iterator[Case]:
    """Rank files, of a release and of a half."""
    sound = bases.read("meta", "tokenizer.model")
    n = len(sound.splitlines())

    def line(token: bytes, id: int | bytes) -> bytes:
        return base64.b64encode(token) + b" " + (id if isinstance(id, bytes) else b"%d" % id) + b"\n"

    def long(path: Path) -> None:
        path.write_bytes(b"a" * 100_000_000)

    contents: dict[str, tuple[Content, bool]] = {
        "a line of 100 MB": (long, True),
        "a token of 6 MB": (later(lambda: line(b"a" * 4_500_000, 0)), True),
        "a token of 65,536 letters": (sound + line(b"a" * 65_536, n), True),
        "a token of 4,000 letters": (sound + line(b"a" * 4000, n), False),
        "9 MB of lines": (later(lambda: b"".join(line(b"%d" % i, i) for i in range(600_000))), False),
        "525,000 lines": (later(lambda: b"".join(line(struct.pack("<I", i)[:3], i) for i in range(525_000))), False),
        "250,000 lines": (later(lambda: b"".join(line(struct.pack("<I", i)[:3], i) for i in range(250_000))), False),
        "7 MB of empty lines": (later(lambda: b"\n" * 7_000_000), False),
        "7 MB of carriage returns": (later(lambda: b"\r" * 7_000_000), False),
        "id of 2^31": (sound + line(b"zz", 2**31), True),
        "id of 2^63": (sound + line(b"zz", 2**63), True),
        "id of 10^4000": (sound + line(b"zz", b"1" + b"0" * 4000), False),
        "id of 10^100000": (sound + line(b"zz", b"1" + b"0" * 100_000), False),
        "id of -1": (sound + line(b"zz", b"-1"), False),
        "id in other digits": (sound + line(b"zz", "٣".encode()), False),
        "id twice": (sound + line(b"zz", 0), False),
        "token twice": (sound + sound.splitlines()[0].split()[0] + b" %d\n" % n, False),
        "no id": (sound + b"YQ==\n", False),
        "three words": (sound + b"YQ== 1 2\n", False),
        "empty token": (sound + b" 7\n", False),
        "base64 of two pieces": (sound + b"YQ==YQ== 514\n", False),
        "no base64": (sound + b"**** 514\n", False),
        "SentencePiece": (b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02", False),
        "zip": (b"PK\x03\x04" + bytes(5000), False),
        "JSON": (b'{"model": {}}', False),
        "UTF-16": ("YQ== 0\n".encode("utf-16"), False),
        "NUL": (bytes(100_000), False),
    }
    yield from replaced("tokenizer.model", "meta", "tokenizer.model", no_files() | contents)
    yield from replaced("tokenizer.model", "edge", "tokenizer.model", not_always(no_files() | contents))


# ---- templates

MARK = "{# <|im_start|> #}"
LOOP = MARK + "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
_DOUBLE = "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
_MACRO = "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"


def templates() -> dict[str, tuple[str, bool]]:
    """Programs, and whether each is a known case."""
    return {
        "nested loops": (LOOP, True),
        "a text that doubles": (MARK + _DOUBLE, True),
        "a text of 10^10": (MARK + "{{ 'a' * 10000000000 }}", True),
        "a range of 10^9": (MARK + "{% for i in range(1000000000) %}{% endfor %}", True),
        "centred in 10^9": (MARK + "{{ 'a' | center(1000000000) }}", True),
        "filled to 10^9": (MARK + "{{ '%01000000000d' | format(1) }}", True),
        "a macro of itself": (MARK + _MACRO, True),
        "10 MB": (MARK + "a" * 10_000_000, True),
        "output without end": (
            MARK + "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
            True,
        ),
        "10 MB of output": (MARK + "{% for a in range(99999) %}{{ 'x' * 100 }}{% endfor %}", True),
        "200 KB of blocks": (MARK + "{% if x %}" * 9000 + "{% endif %}" * 9000, False),
        "deep brackets": (MARK + "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", False),
        "deep lists": (MARK + "{{ " + "[" * 5000 + "]" * 5000 + " }}", False),
        "a long sum": (MARK + "{{ " + "1+" * 100_000 + "1 }}", False),
        "a power": (MARK + "{{ 9 ** (9 ** 9) }}", True),
        "a list of 10^9": (MARK + "{{ [1] * 1000000000 }}", True),
        "a product of loops": (
            MARK + "{% for a in 'x' * 100000 %}{% for b in 'x' * 100000 %}{% endfor %}{% endfor %}",
            False,
        ),
        "sorting": (MARK + "{% for a in range(99999) %}{{ range(99999) | sort | length }}{% endfor %}", False),
        "replacing": (MARK + "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}", False),
        "joining": (MARK + "{{ range(99999) | join('x' * 100000) }}", False),
        "words wrapped": (MARK + "{{ ('a ' * 1000000) | wordwrap(1) }}", False),
        "addresses": (MARK + "{{ ('http://a.b ' * 200000) | urlize }}", False),
        "JSON": (MARK + "{{ ('a' * 50000000) | tojson }}", False),
        "an endless generator": (MARK + "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", False),
        "including itself": (MARK + "{% include 'self' %}", False),
        "extending": (MARK + "{% extends 'x' %}", False),
        "importing": (MARK + "{% import 'os' as os %}{{ os.system('true') }}", False),
        "classes": (MARK + "{{ ''.__class__.__mro__[1].__subclasses__() }}", False),
        "format of attributes": (MARK + "{{ '{0.__class__}'.format(1) }}", False),
        "the environment": (MARK + "{{ self._TemplateReference__context.environment }}", False),
        "raising": (MARK + "{{ raise_exception('x' * 10000000) }}", False),
        "a lone surrogate": (MARK + "{{ '\\ud800' }}", False),
        "half a block": (MARK + "{% for", False),
        "lipsum": (MARK + "{{ lipsum(n=10000000) }}", False),
        "cycler": (
            MARK + "{% set c = cycler(1) %}{% for a in range(99999) %}{% for b in range(99999) %}"
            "{{ c.next() }}{% endfor %}{% endfor %}",
            False,
        ),
    }


def template_cases(bases: Bases) -> Iterator[Case]:
    """In a file of its own, and in the tokenizer's configuration."""
    contents: dict[str, tuple[Content, bool]] = {
        name: (text.encode(), known) for name, (text, known) in templates().items()
    }
    yield from replaced("template", "hf", "chat_template.jinja", no_files() | contents)
    configured: dict[str, tuple[Content, bool]] = {
        "a thousand templates": (
            json.dumps({"chat_template": [{"name": "x", "template": LOOP}] * 1000}).encode(),
            False,
        ),
        "a number": (b'{"chat_template": 7}', False),
        "nested loops": (json.dumps({"chat_template": LOOP}).encode(), False),
    }
    yield from replaced("template", "hf", "tokenizer_config.json", no_files() | json_texts() | configured)
