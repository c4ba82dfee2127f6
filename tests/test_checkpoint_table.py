"""Every line of docs/checkpoints.md is true: what is read comes as the same tensors, what is refused says so in a line.

Each line of the tables has its cases here, under its own first words. A line without cases fails,
and so do cases without a line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from llama.checkpoint.opening import open_source
from llama.checkpoint.source import Source
from llama.checkpoint.splitting import split
from llama.errors import CheckpointError, TokenizerError
from tests.generated_checkpoints import Draft, another, save, save_parts, several_files, sizes
from tests.small_checkpoints import (
    LLAMA_3_1_ROPE,
    Params,
    Tensors,
    byte_tokens,
    gguf_name,
    params,
    same,
    weights,
    write_gguf,
    write_meta,
    write_tokenizer_json,
)
from tests.support import ROOT

LINE = re.compile(r"\| (.+?) +\| (.+?) +\|")
META = params(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, multiple_of=16)
GGUF = META | {"vocab_size": 264}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST = "model-00001-of-00003.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 16060522496\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"

Kind = gguf.GGMLQuantizationType
U8, I64, F64, F32, STRING = (
    gguf.GGUFValueType.UINT8, gguf.GGUFValueType.INT64, gguf.GGUFValueType.FLOAT64, gguf.GGUFValueType.FLOAT32,
    gguf.GGUFValueType.STRING,
)  # fmt: skip


@dataclass
class Case:
    """One checkpoint.

    Attributes:
        make: writes it into an empty directory; returns what is given as --ckpt_dir.
        said: None where it is read; else what the refusal says.
        tensors: where it is read, by Meta's names; None where ``make``'s family's own, unchanged, are meant.
    """

    make: Callable[[Path], Path]
    said: str | None = None
    tensors: Callable[[Tensors], Tensors] | None = None
    check: Callable[[Source], object] = lambda source: True


# ---- sound checkpoints, and changes


def hf_draft(directory: Path) -> Draft:
    directory.mkdir(parents=True, exist_ok=True)
    draft = Draft(directory, {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, 1)
    sizes(16, 32, 2, 2, 1)(draft)
    return draft


def hf(
    *,
    config: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    tensors: Callable[[Tensors], Tensors] | None = None,
    files: Callable[[Draft], None] | None = None,
    after: Callable[[Path], object] | None = None,
) -> Callable[[Path], Path]:
    """A Hugging Face directory: config.json changed and fields dropped, tensors changed, then its files."""

    def make(directory: Path) -> Path:
        draft = hf_draft(directory)
        draft.config |= config or {}
        for name in drop:
            draft.config.pop(name)
        if tensors is not None:
            draft.tensors = tensors(draft.tensors)
        (directory / "config.json").write_text(json.dumps(draft.config))
        if files is None:
            save(draft.tensors, directory / WEIGHTS)
        else:
            files(draft)
        write_tokenizer_json(directory)
        if after is not None:
            after(directory)
        return directory

    return make


def hf_tensors(directory: Path) -> Tensors:
    """The tensors of ``hf()`` by Meta's names, query and key rows in Meta's order."""
    names = {"q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv", "o_proj": "attention.wo",
             "gate_proj": "feed_forward.w1", "down_proj": "feed_forward.w2", "up_proj": "feed_forward.w3",
             "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    tops = {"model.embed_tokens.weight": "tok_embeddings.weight", "model.norm.weight": "norm.weight",
            "lm_head.weight": "output.weight"}  # fmt: skip
    found = Tensors()
    for name, tensor in hf_draft(directory / "unused").tensors.items():
        if name in tops:
            found[tops[name]] = tensor
            continue
        words = name.split(".")
        if words[-2] in ("q_proj", "k_proj"):
            tensor = tensor.view(-1, 2, 4, 16).transpose(1, 2).reshape(tensor.shape)
        found[f"layers.{words[2]}.{names[words[-2]]}.weight"] = tensor
    return found


def meta(
    *,
    p: Params = META,
    tensors: Callable[[Tensors], Tensors] | None = None,
    shards: int = 1,
    after: Callable[[Path], object] | None = None,
) -> Callable[[Path], Path]:
    """A Meta directory, its tensors changed, then its files."""

    def make(directory: Path) -> Path:
        stored = weights(META)
        write_meta(directory, p, stored if tensors is None else tensors(stored), TOKENIZER[0], shards)
        if after is not None:
            after(directory)
        return directory

    return make


TOKENIZER = list[Path]()  # the golden one, once it has been made


def ggufs(
    name: str = "m.gguf", after: Callable[[Path], object] | None = None, **changes: Any
) -> Callable[[Path], Path]:
    """A GGUF file of that name."""

    def make(directory: Path) -> Path:
        path = write_gguf(directory / "m.gguf", **({"p": GGUF, "tensors": weights(GGUF)} | changes))
        path = path.rename(directory / name)
        if after is not None:
            after(path)
        return path

    return make


def placed(name: str, content: bytes) -> Callable[[Path], object]:
    """A file of this content, in place of another or beside the others."""
    return lambda directory: (directory / name).write_bytes(content)


def lacking(*names: str) -> Callable[[Path], object]:
    """Without these files."""

    def remove(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return remove


def renamed(old: str, new: str) -> Callable[[Path], object]:
    return lambda directory: (directory / old).rename(directory / new)


def then(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda directory: [step(directory) for step in steps]


def inside(make: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    """What ``make`` writes, of which this file or directory is given."""
    return lambda directory: make(directory) / name


def cut(name: str, count: int = 40) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:-count])


def all_at(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def changed(**new: torch.Tensor | None) -> Callable[[Tensors], Tensors]:
    """Tensors added, replaced or (None) left out; in names __ stands for a dot."""
    named = {name.replace("__", "."): tensor for name, tensor in new.items()}
    return lambda tensors: {k: v for k, v in (tensors | named).items() if v is not None}


def both_families(directory: Path) -> Path:
    hf()(directory)
    return meta()(directory)


def hub_snapshot(directory: Path, *, blobs: bool = True) -> Path:
    """A directory of links, as the hub's cache has it."""
    hf(files=several_files)(directory / "original")
    (directory / "blobs").mkdir()
    snapshot = directory / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted((directory / "original").iterdir())):
        path.rename(directory / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{number:064x}")
    (directory / "original").rmdir()
    if not blobs:
        shutil.rmtree(directory / "blobs")
    return snapshot


def in_archive(kind: str) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        hf()(directory / "hf")
        if kind == "zip":
            with zipfile.ZipFile(directory / "m.zip", "w") as file:
                file.write(directory / "hf" / WEIGHTS, WEIGHTS)
            return directory / "m.zip"
        with tarfile.open(directory / "m.tar", "w:gz" if kind == "gzip" else "w") as archive:
            archive.add(directory / "hf", "hf")
        return directory / "m.tar"

    return make


def beside_another_model(*names: str) -> Callable[[Path], object]:
    """Files of another model under these names."""

    def write(directory: Path) -> None:
        for name in names:
            save(another(hf_draft(directory / "unused")), directory / name)

    return write


def stale(*, files: bool) -> Callable[[Path], object]:
    """An index, and perhaps its files, of another model."""
    return lambda directory: save_parts(another(hf_draft(directory / "unused")), directory, 2, files=files)


def more_parts(draft: Draft) -> None:
    save_parts(another(draft), draft.directory, 5, index=False)
    save_parts(draft.tensors, draft.directory, 2)


def named_weights(draft: Draft) -> None:
    save(another(draft), draft.directory / WEIGHTS)
    save(draft.tensors, draft.directory / "best.safetensors")


def named_index(draft: Draft) -> None:
    save_parts(draft.tensors, draft.directory, 2)
    (draft.directory / INDEX).rename(draft.directory / "best.safetensors.index.json")
    save(another(draft), draft.directory / WEIGHTS)


def twice(draft: Draft) -> None:
    save_parts(draft.tensors, draft.directory, 2)
    save(draft.tensors, draft.directory / "model-00002-of-00002.safetensors")


def pth(contents: object, **options: Any) -> Callable[[Path], object]:
    return lambda directory: torch.save(contents, directory / "consolidated.00.pth", **options)


def compressed(directory: Path) -> None:
    path = directory / "consolidated.00.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(directory / "new", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    (directory / "new").rename(path)


def big_endian_pth(directory: Path) -> None:
    path = directory / "consolidated.00.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(directory / "new", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, b"big" if entry.filename.endswith("byteorder") else old.read(entry))
    (directory / "new").rename(path)


def with_gguf(change: Callable[[gguf.GGUFWriter], object] = lambda _: None, **changes: Any) -> Callable[[Path], Path]:
    """A GGUF with other metadata (``fields``: None for one left out) or tensors (``stored``)."""

    def make(directory: Path) -> Path:
        writer = gguf.GGUFWriter(directory / "m.gguf", "llama")
        numbers = {
            "embedding_length": 16, "block_count": 2, "feed_forward_length": 48, "context_length": 512,
            "attention.head_count": 4, "attention.head_count_kv": 2,
        }  # fmt: skip
        fields: dict[str, Any] = {f"llama.{k}": (gguf.GGUFValueType.UINT32, number) for k, number in numbers.items()}
        fields["llama.attention.layer_norm_rms_epsilon"] = (F32, 1e-5)
        fields["llama.rope.freq_base"] = (F32, 5e5)
        fields["tokenizer.ggml.pre"] = (STRING, "smollm")
        for key, value in (fields | changes.pop("fields", {})).items():
            if value is not None:
                kind, of = value if not isinstance(value[0], list) else (gguf.GGUFValueType.ARRAY, value[0][0])
                number = value[1]
                writer.add_key_value(key, number, kind, *([of] if kind == gguf.GGUFValueType.ARRAY else []))
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([*byte_tokens(), "ab", "<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        writer.add_token_types([1] * 257 + [3] * 3)
        writer.add_token_merges(["a b"])
        change(writer)
        for name, data, kind in changes.pop("stored", lambda: plain_tensors())():
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return directory / "m.gguf"

    return make


def plain_tensors(kind: Kind = Kind.F32, dtype: Any = np.float32) -> list[tuple[str, Any, Kind]]:
    return [(gguf_name(name), tensor.float().numpy().astype(dtype), kind) for name, tensor in weights(GGUF).items()]


def with_type(number: int, *, at: str = "blk.0.ffn_up.weight") -> Callable[[Path], object]:
    """The type of a tensor in the header changed to this number."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        place = data.index(at.encode()) + len(at) + 4 + 2 * 8
        data[place : place + 4] = struct.pack("<I", number)
        path.write_bytes(data)

    return change


def patched(offset: int, new: bytes) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[offset : offset + len(new)] = new
        path.write_bytes(data)

    return change


OLD_SCALING = {key: value for key, value in LLAMA_3_1_ROPE.items() if key != "rope_theta"}
EMBEDDINGS_AS_HEAD = lambda tensors: tensors | {"output.weight": tensors["tok_embeddings.weight"]}  # noqa: E731


def theta(source: Source) -> tuple[float, float | None]:
    return source.args.rope_theta, source.args.rope_scaling_factor if source.args.use_scaled_rope else None


def has(theta_and_factor: tuple[float, float | None]) -> Callable[[Source], object]:
    return lambda source: theta(source) == theta_and_factor


HUGGING_FACE_FIELDS: dict[str, list[Case]] = {
    "rotary settings as before transformers 5": [
        Case(hf(config={"rope_theta": 300.0, "rope_scaling": None}), check=has((300.0, None))),
        Case(hf(config={"rope_theta": 5e5, "rope_scaling": OLD_SCALING}), check=has((5e5, 8.0))),
        Case(hf(config={"rope_scaling": {"type": "llama3"} | OLD_SCALING}), check=has((1e4, 8.0))),
        Case(hf(config={"rope_parameters": LLAMA_3_1_ROPE}), check=has((5e5, 8.0))),
    ],
    "`rope_scaling` that is not empty": [
        Case(hf(config={"rope_scaling": OLD_SCALING, "rope_parameters": {"rope_theta": 7.0}}), check=has((1e4, 8.0))),
        Case(
            hf(config={"rope_scaling": {"type": "default"}, "rope_theta": 9.0, "rope_parameters": LLAMA_3_1_ROPE}),
            check=has((9.0, None)),
        ),
    ],
    "`rope_theta` beside another": [
        Case(hf(config={"rope_theta": 7.0, "rope_parameters": {"rope_theta": 300.0}}), check=has((300.0, None)))
    ],
    "`original_max_position_embeddings` outside": [
        Case(
            hf(config={"original_max_position_embeddings": 8192, "rope_scaling": OLD_SCALING
                       | {"original_max_position_embeddings": 4096}}),
            check=has((1e4, 8.0)),
        ),
        Case(
            hf(config={"original_max_position_embeddings": 4096, "rope_scaling": OLD_SCALING}),
            r"original_max_position_embeddings of the rotary scaling must be 8192 .got 4096",
        ),
    ],
    "missing fields": [
        Case(
            hf(drop=("rms_norm_eps", "max_position_embeddings", "hidden_act", "attention_bias", "mlp_bias",
                     "head_dim")),
            check=lambda source: (source.args.norm_eps, source.context_length) == (1e-6, 2048),
        ),
        Case(hf(drop=("hidden_size", "head_dim")), r"has shape \(264, 16\), config\.json requires \(264, 4096\)"),
    ],
    "null for": [
        Case(
            hf(config=dict.fromkeys(("head_dim", "rope_scaling", "attention_bias", "mlp_bias", "tie_word_embeddings",
                                     "rope_parameters", "quantization_config", "partial_rotary_factor"))),
        ),
        Case(hf(config={"num_key_value_heads": None}), r"k_proj\.weight has shape \(8, 16\), .* requires \(16, 16\)"),
        Case(hf(config={"rms_norm_eps": None}), r"Expected `float`, got `null` - at `\$\.rms_norm_eps`"),
        Case(hf(config={"rope_theta": None}), "the rotary settings lack the number rope_theta"),
    ],
    "no `model_type`, but": [
        Case(hf(drop=("model_type",))),
        Case(hf(config={"model_type": None, "architectures": ["LlamaModel"]})),
        Case(hf(drop=("architectures",))),
        Case(hf(drop=("model_type", "architectures")), "has neither model_type nor architectures"),
    ],
    "`swish` for": [Case(hf(config={"hidden_act": "swish"}))],
    "a byte order mark before it": [
        Case(hf(after=lambda d: placed("config.json", b"\xef\xbb\xbf" + (d / "config.json").read_bytes())(d)))
    ],
    "`tie_word_embeddings` and no head": [
        Case(hf(config={"tie_word_embeddings": True}, tensors=changed(lm_head__weight=None)),
             tensors=EMBEDDINGS_AS_HEAD)
    ],
    "`tie_word_embeddings` and a head with": [Case(hf(config={"tie_word_embeddings": True}))],
    "`tie_word_embeddings` and a head, but": [
        Case(
            hf(config={"tie_word_embeddings": True}, tensors=changed(model__embed_tokens__weight=None)),
            tensors=lambda tensors: tensors | {"tok_embeddings.weight": tensors["output.weight"]},
        )
    ],
    "no head, and": [
        Case(hf(config=config, tensors=changed(lm_head__weight=None)),
             r"lacks the tensor lm_head\.weight, .* set tie_word_embeddings to true")
        for config in ({}, {"tie_word_embeddings": False})
    ],
    "rotary scaling of other kinds": [
        *(
            Case(hf(config={"rope_scaling": {"type": kind, "factor": 2.0}}), f"'{kind}' rotary scaling; only default")
            for kind in ("linear", "dynamic", "yarn", "longrope")
        ),
        Case(hf(config={"rope_parameters": LLAMA_3_1_ROPE | {"low_freq_factor": 2}}),
             "low_freq_factor .* must be 1 .got 2"),
        Case(hf(config={"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                         "high_freq_factor": 4.0}}),
             "original_max_position_embeddings of the rotary scaling must be 8192 .got 512"),
    ],
    "rotary settings per kind": [
        Case(hf(config={"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}), r"by kind of layer \(full_att"),
        Case(hf(config={"layer_types": ["full_attention"] * 2, "rope_parameters": {"full_attention": LLAMA_3_1_ROPE}}),
             "by kind of layer"),
        Case(hf(config={"partial_rotary_factor": 0.5}), "only a part of each head"),
    ],
    "`head_dim` other": [Case(hf(config={"head_dim": 16}),
                              r"head_dim 16 is not hidden_size / num_attention_heads \(8\)")],
    "linear rotary scaling by 1": [
        Case(hf(config={"rope_theta": 9.0, "rope_scaling": {"type": "linear", "factor": 1.0}}), check=has((9.0, None)))
    ],
    "attention both ways, or": [
        Case(hf(config={"is_causal": False}), "is_causal is false"),
        Case(hf(config={"sliding_window": 16}), "sliding_window is 16"),
        Case(hf(config={"attention_chunk_size": 64}), "attention_chunk_size is 64"),
    ],
    "biases, another": [
        Case(hf(config={"attention_bias": True}), r"biases \(attention_bias\)"),
        Case(hf(config={"mlp_bias": True}), r"biases \(mlp_bias\)"),
        Case(hf(config={"hidden_act": "gelu"}), "the activation 'gelu'; only silu"),
    ],
    "`quantization_config`": [
        Case(hf(config={"quantization_config": {"quant_method": "gptq", "bits": 4}}), r"quantised model \(gptq\)"),
        Case(hf(config={"compression_config": {"format": "int"}}), r"quantised model \(no quant_method\)"),
    ],
    "another architecture (Llama 4": [
        *(
            Case(hf(config={"model_type": kind, "architectures": [name]}), rf"another architecture \({name}, {kind}\)")
            for kind, name in {"llama4": "Llama4ForConditionalGeneration", "mistral": "MistralForCausalLM",
                               "qwen2": "Qwen2ForCausalLM", "mllama": "MllamaForConditionalGeneration"}.items()
        ),
        Case(hf(config={"architectures": ["LlamaForSequenceClassification"]}), "LlamaForSequenceClassification, llama"),
        Case(hf(config={"model_type": "deci", "num_key_value_heads": [1, 2]}), "another architecture"),
    ],
    "sizes that the tensors": [
        Case(hf(config={"intermediate_size": 48}), r"mlp\.gate_proj\.weight has shape \(32, 16\)"),
        Case(hf(config={"num_hidden_layers": 3}), r"lacks the tensor model\.layers\.2\."),
        Case(hf(config={"num_hidden_layers": 1}), r"does not have: model\.layers\.1\."),
        Case(hf(config={"num_attention_heads": 3}), "num_attention_heads 3 .* do not fit together"),
    ],
    "not JSON": [
        Case(hf(after=placed("config.json", b'{"hidden_size": 16,}')), r"config\.json is not JSON \(.*byte 19"),
        Case(hf(after=placed("config.json", b"\xff\xfe{\x00}\x00")), r"config\.json is not JSON"),
        Case(hf(config={"hidden_size": "16"}), r"Expected `int`, got `str` - at `\$\.hidden_size`"),
    ],
}  # fmt: skip
HUGGING_FACE_TENSORS: dict[str, list[Case]] = {
    "float32, bfloat16, float16": [
        Case(hf(tensors=lambda t, d=dtype: all_at(t, d)), tensors=lambda t, d=dtype: all_at(t, d),  # type: ignore[misc]
             check=lambda s, d=dtype: s.dtype == d)  # type: ignore[misc]
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ],
    "float64": [
        Case(hf(tensors=lambda t: all_at(t, torch.float64)), check=lambda source: source.dtype == torch.float32),
        Case(hf(tensors=lambda t: {k: v.double() if "norm" in k else v.bfloat16() for k, v in t.items()}),
             tensors=lambda t: {k: v if "norm" in k else v.bfloat16() for k, v in t.items()},
             check=lambda source: source.dtype == torch.bfloat16),
    ],
    "names without `model.`": [
        Case(hf(tensors=lambda t: {k.removeprefix("model."): v for k, v in t.items()})),
        Case(hf(tensors=lambda t: {"model." + k: v for k, v in t.items()})),
    ],
    "rotary tables": [
        Case(hf(tensors=changed(**{name.replace(".", "__"): torch.ones(3)})))
        for name in ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.cos_cached",
                     "layers.0.self_attn.rotary_emb.sin_cached", "model.rotary_emb.original_inv_freq", "freqs_cis")
    ],
    "an embedding table with more rows": [Case(hf(), check=lambda source: source.vocabulary.n_words == 260)],
    "fp8, int8": [
        Case(hf(tensors=lambda t, d=dtype: t | {"model.norm.weight": t["model.norm.weight"].to(d)}),  # type: ignore[misc]
             rf"model\.norm\.weight is stored as {name}; supported are float32, bfloat16, float16, float64")
        for dtype, name in {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8",
                            torch.uint8: "U8", torch.int64: "I64", torch.bool: "BOOL"}.items()
    ],
    "quantised models' tensors": [
        Case(hf(tensors=changed(**{f"model__layers__0__mlp__up_proj__{word}": torch.ones(1)})),
             rf"holds model\.layers\.0\.mlp\.up_proj\.{word}, so it is a quantised model")
        for word in ("qweight", "scales", "weight_scale", "weight_scale_inv", "absmax")
    ],
    "an adapter's tensors": [
        Case(hf(tensors=changed(base_model__model__model__lora_A__weight=torch.ones(1))), "part of an adapter; merge")
    ],
    "a tensor that a Llama": [
        Case(hf(tensors=changed(model__layers__0__self_attn__q_proj__bias=torch.ones(1))),
             r"does not have: .*q_proj\.bias"),
        Case(hf(tensors=changed(score__weight=torch.ones(1))), r"does not have: score\.weight"),
    ],
    "one tensor under two names": [
        Case(hf(tensors=changed(norm__weight=torch.ones(16))), r"under two names, model\.norm\.weight and norm\.weight")
    ],
}  # fmt: skip
HUGGING_FACE_FILES: dict[str, list[Case]] = {
    "`model.safetensors`": [Case(hf())],
    "`model.safetensors.index.json` and": [Case(hf(files=several_files))],
    "`model.safetensors` beside an index": [Case(hf(after=stale(files=files))) for files in (True, False)],
    "an index, and more parts": [Case(hf(files=more_parts))],
    "safetensors beside `pytorch_model.bin`": [Case(hf(after=placed("pytorch_model.bin", b"x")))],
    "safetensors beside `consolidated": [
        Case(hf(after=beside_another_model("consolidated.safetensors", "model.fp16.safetensors")))
    ],
    "a file or an index that `config": [
        Case(hf(config={"transformers_weights": "best.safetensors"}, files=named_weights)),
        Case(hf(config={"transformers_weights": "best.safetensors.index.json"}, files=named_index)),
        Case(hf(config={"transformers_weights": "best.bin"}), r"best\.bin as its weights .* not a safetensors file"),
        Case(hf(config={"transformers_weights": "../best.safetensors"}), "outside its directory"),
    ],
    "a snapshot in the hub's cache (links": [Case(hub_snapshot)],
    "a part that the index lists": [
        Case(hf(files=several_files, after=lacking("model-00002-of-00003.safetensors")),
             r"lacks model-00002-of-00003\.safetensors, which model\.safetensors\.index\.json lists; finish the")
    ],
    "two files with one tensor": [
        Case(hf(files=twice), r"model-00002-of-00002\.safetensors and model-00001.* both hold the tensor"),
    ],
    "parts without an index": [Case(hf(files=several_files, after=lacking(INDEX)), f"but no {re.escape(INDEX)}")],
    "only a variant": [
        Case(hf(after=renamed(WEIGHTS, name)), f"has neither .*, but {re.escape(name)}; .* rename it to")
        for name in ("model.fp16.safetensors", "consolidated.safetensors")
    ],
    "only `.bin`": [
        Case(hf(after=then(lacking(WEIGHTS), placed(name, b"x"))),
             r"has its weights as \.bin \(pickle\); use a safetensors")
        for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin")
    ],
    "`model.safetensors` of other sizes": [
        Case(hf(config={"intermediate_size": 48}, after=stale(files=True)),
             r"requires \(48, 16\); .*model\.safetensors is used, model\.safetensors\.index\.json beside it"),
        Case(hf(config={"num_hidden_layers": 3}, after=stale(files=True)),
             "lacks .*index.json beside it is ignored; move one of them"),
    ],
    "only GGUF files beside": [
        Case(hf(after=renamed(WEIGHTS, "m.gguf")), r"but GGUF files; give the file itself: --ckpt_dir .*m\.gguf")
    ],
    "`adapter_config.json` (PEFT": [
        Case(hf(after=placed("adapter_config.json", b"{}")),
             r"adapter_config\.json says .* merge it \(merge_and_unload\)"),
        Case(hf(after=then(lacking("config.json", WEIGHTS), placed("adapter_config.json", b"{}"))), "holds an adapter"),
    ],
    "no `tokenizer.json`": [
        Case(hf(after=lacking("tokenizer.json")), r"lacks tokenizer\.json; get that file"),
        Case(hf(after=renamed("tokenizer.json", "tokenizer.model")),
             r"lacks tokenizer\.json \(its tokenizer\.model is not"),
    ],
}  # fmt: skip
FAMILIES: dict[str, list[Case]] = {
    "`params.json` and": [Case(meta())],
    "`config.json` and": [Case(hf())],
    "a file that begins as a GGUF": [Case(ggufs(name)) for name in ("m.gguf", "c0ffee" * 10, "sha256-0123", "m.bin")],
    "a whole Hugging Face checkpoint and": [Case(hf(after=placed("params.json", json.dumps(META).encode())))],
    "a whole Meta checkpoint and": [Case(meta(after=placed("config.json", b'{"model_type": "llama"}')))],
    "a whole checkpoint of each": [
        Case(both_families,
             r"two checkpoints: params\.json with consolidated\.00\.pth .* config\.json with model\.safe")
    ],
    "both settings files and no weights": [
        Case(hf(after=then(lacking(WEIGHTS), placed("params.json", b"{}"))),
             "no weights: .*; finish the download")
    ],
    "one file of a directory": [
        Case(inside(hf(), WEIGHTS), "is a safetensors file; give its directory: --ckpt_dir "),
        Case(inside(hf(), "config.json"), "one file of a checkpoint directory; give its directory"),
        Case(inside(meta(), "consolidated.00.pth"), "is a file of weights; give its directory"),
        Case(inside(meta(), "tokenizer.model"), "give its directory"),
    ],
    "a directory with GGUF": [Case(lambda d: ggufs()(d).parent, r"give the file itself: --ckpt_dir .*m\.gguf")],
    "a directory in the hub's cache above": [
        Case(lambda d: hub_snapshot(d).parent.parent, "give a snapshot inside it: --ckpt_dir .*snapshots/aaaa")
    ],
    "a directory above the checkpoint": [Case(lambda d: meta()(d / "original").parent,
                                           "a subdirectory does; .*: --ckpt_dir .*original")],
    "the name of a model on the hub": [
        Case(lambda d: Path("meta-llama/Llama-3.2-1B"), r"download a model of the .* first \(hf download\)")
    ],
    "an archive": [
        *(Case(in_archive(kind), rf"is an archive \({kind}\); unpack it") for kind in ("zip", "tar", "gzip")),
    ],
    "a path that is not UTF-8": [
        Case(lambda d: hf()(d / "hf").rename(d / os.fsdecode(b"caf\xe9")),
             r"caf\\xe9 is not UTF-8, .* or give a link to it"),
        Case(lambda d: linked(hf()(d / "hf").rename(d / os.fsdecode(b"caf\xe9")), d / "link")),
    ],
}  # fmt: skip


def linked(target: Path, link: Path) -> Path:
    """A link to it, which is given."""
    link.symlink_to(target)
    return link


def halves(directory: Path) -> Path:
    split(open_source(meta()(directory / "meta")), directory / "out")
    return directory / "out"


FAMILIES["the two halves of a split"] = [
    Case(halves, "the two halves of a split checkpoint; give the original"),
    Case(inside(halves, "edge"), "already one half of a split checkpoint; give the original"),
]
WENT_WRONG: dict[str, list[Case]] = {
    "a pointer of Git LFS": [
        *(Case(hf(after=placed(name, LFS)), f"{re.escape(name)} is a Git LFS pointer.* run git lfs pull")
          for name in (WEIGHTS, "tokenizer.json", "config.json")),
        Case(meta(after=placed("consolidated.00.pth", LFS)), r"00\.pth is a Git LFS pointer"),
        Case(meta(after=placed("tokenizer.model", LFS)), r"tokenizer\.model is a Git LFS pointer"),
        Case(ggufs(after=lambda path: path.write_bytes(LFS)), r"m\.gguf is a Git LFS pointer"),
        Case(ggufs("m", after=lambda path: path.write_bytes(LFS)), "m is a Git LFS pointer"),
        Case(hf(files=several_files, after=placed("model-00001-of-00003.safetensors", LFS)), "00001.* git lfs pull"),
    ],
    "a web page": [
        *(Case(hf(after=placed(name, HTML)), f"{re.escape(name)} is a web page")
          for name in (WEIGHTS, "config.json", "tokenizer.json")),
        Case(meta(after=placed("consolidated.00.pth", HTML)), r"00\.pth is a web page"),
        Case(meta(after=placed("params.json", b"<?xml version='1.0'?><Error/>")), r"params\.json is a web page"),
        Case(ggufs(after=lambda path: path.write_bytes(HTML)), r"m\.gguf is a web page"),
        Case(hf(after=placed(WEIGHTS, b"Entry not found")), r"model\.safetensors is a short text"),
        Case(meta(after=placed("consolidated.00.pth", b'{"error": "gated"}')), r"00\.pth is a short text"),
    ],
    "an unfinished download": [
        Case(hf(after=renamed(WEIGHTS, WEIGHTS + ".part")),
             r"only as an unfinished download \(model\.safetensors\.part\)"),
        Case(hf(files=several_files, after=renamed(FIRST, FIRST + ".incomplete")),
             r"has model-00001-of-00003\.safetensors only as an unfinished download"),
        Case(meta(shards=2, after=renamed("consolidated.00.pth", "consolidated.00.pth.aria2")), "unfinished download"),
        Case(meta(after=renamed("consolidated.00.pth", "consolidated.00.pth.part")),
             "an unfinished download or a renamed copy"),
        Case(ggufs("m.gguf.part", after=lambda path: cut(path.name)(path.parent)), r"m\.gguf\.part is an unfinished"),
        Case(hf(after=renamed("config.json", "config.json.tmp")), r"has config\.json only as an unfinished download"),
    ],
    "a link to a missing file": [
        Case(lambda d: hub_snapshot(d, blobs=False), r"config\.json is a link to .*, which does not exist; .*cp -rL"),
        Case(hf(after=then(lacking(WEIGHTS), lambda d: (d / WEIGHTS).symlink_to("../blob"))),
             r"model\.safetensors is a link to \.\./blob, which does not exist"),
        Case(lambda d: linked(d / "blob", d / "m.gguf"), r"m\.gguf is a link to"),
    ],
    "zeros, or an empty": [
        *(Case(hf(after=placed(WEIGHTS, content)), complaint)
          for content, complaint in ((b"", "is empty; finish the download"), (bytes(9999), "begins with zeros only"))),
        Case(meta(after=placed("consolidated.00.pth", b"")), "is empty; finish the download"),
        Case(ggufs(after=lambda path: path.write_bytes(b"")), "is empty; finish the download"),
        Case(ggufs(after=lambda path: path.write_bytes(bytes(9999))), "begins with zeros only"),
    ],
    "weights of one format under": [
        Case(meta(after=lambda d: save(weights(META), d / "consolidated.00.pth")),
             "is a safetensors file under another"),
        Case(hf(after=lambda d: torch.save(weights(META), d / WEIGHTS)), r"is a file of torch\.save"),
        Case(hf(after=lambda d: write_gguf(d / WEIGHTS, GGUF, weights(GGUF))), "is a GGUF file under another name"),
        Case(ggufs(after=lambda path: torch.save(weights(META), path)), r"is a file of torch\.save"),
        Case(meta(after=renamed("consolidated.00.pth", "model.pth")), r"model\.pth; .* rename it to consolidated\.00"),
    ],
    "a file that ends early": [
        Case(hf(after=cut(WEIGHTS)), r"model\.safetensors is damaged or incomplete \(its length differs .*\); finish"),
        Case(hf(after=placed(WEIGHTS, b"\x08" + bytes(7) + b"{damaged" + b"\xff" * 99)), "damaged or incomplete"),
        Case(meta(after=cut("consolidated.00.pth")), r"00\.pth is damaged or incomplete; download or create it again"),
        Case(ggufs(after=lambda path: cut(path.name)(path.parent)), "damaged, incomplete .* extends past the end"),
        Case(hf(files=several_files, after=placed(INDEX, b'{"weight_map": [')), r"index\.json is malformed"),
    ],
}  # fmt: skip
META_DIRECTORIES: dict[str, list[Case]] = {
    "`consolidated.00.pth` …": [
        *(Case(meta(shards=shards)) for shards in (1, 2)),
        Case(meta(after=renamed("consolidated.00.pth", "consolidated.pth"))),
    ],
    "fields of `params.json`": [
        Case(meta(p={"model": META})),
        Case(meta(after=placed("params.json", b"\xef\xbb\xbf" + json.dumps(META).encode()))),
    ],
    "`rope.freqs`": [
        Case(meta(tensors=changed(**{name: tensor})))
        for name, tensor in {
            "rope__freqs": torch.ones(4), "layers__0__attention__inner_attention__rope__freqs": torch.ones(4),
            "rope__freqs_cis": torch.ones(4, dtype=torch.complex64),
        }.items()
    ],
    "no `output.weight`": [Case(meta(tensors=changed(output__weight=None)), tensors=EMBEDDINGS_AS_HEAD)],
    "float64": [
        Case(meta(tensors=lambda t: all_at(t, torch.float64), shards=2), tensors=lambda t: all_at(t, torch.float32),
             check=lambda source: source.dtype == torch.float32)
    ],
    "shards missing": [
        Case(meta(shards=2, after=lacking("consolidated.00.pth")), r"lacks consolidated\.00\.pth; finish the download"),
        Case(meta(shards=2, after=lacking("consolidated.01.pth")), r"has 1 shard\(s\) of a checkpoint of 2"),
        Case(meta(after=placed("consolidated.0.pth", b"")), "two files for the same shard: .*; remove one"),
        Case(meta(shards=2, after=pth(weights(META))), r"00\.pth: .* the files do not belong together|shard\(s\) of"),
    ],
    "no `tokenizer.model`": [
        Case(meta(after=lacking("tokenizer.model")), r"lacks tokenizer\.model, .* one level up; copy it into")
    ],
    "`tokenizer.model` of Llama 2": [
        Case(meta(after=placed("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")), "a SentencePiece model")
    ],
    "a `.pth` of the format before": [
        Case(meta(after=pth(weights(META), _use_new_zipfile_serialization=False)),
             r"00\.pth has the format of torch before 1\.6, .* save it again: torch\.save\(torch\.load\(")
    ],
    "a `.pth` of another pickle": [
        Case(meta(after=pth(weights(META), pickle_protocol=4)),
             "another pickle protocol .* save it with the default"),
        Case(meta(after=compressed), r"compressed .* save it again: torch\.save\("),
        Case(meta(after=big_endian_pth), r"big-endian machine, .* save it again on another: torch\.save\("),
        Case(meta(after=placed("consolidated.00.pth", b"\x80\x04\x95" + bytes(9))),
             "a bare pickle, .* with torch.save"),
    ],
    "a `.pth` that holds more": [
        Case(meta(after=pth({"a": Path("b")})), "holds more than tensors .* use the file as released"),
        Case(meta(after=pth([torch.ones(1)])), "does not hold a state dict"),
    ],
    "fp8, quantised": [
        Case(meta(after=placed("fp8_scales_0.pt", b"")), "is an fp8 release"),
        Case(meta(tensors=lambda t: t | {"norm.weight": t["norm.weight"].to(torch.float8_e4m3fn)}),
             r"norm\.weight is stored as float8_e4m3fn; supported are"),
        Case(meta(p=META | {"quantization_args": {"scheme": "int4"}}), "describes a quantised checkpoint"),
        Case(meta(p=META | {"vision_chunk_size": 448}), "describes a vision model"),
        Case(meta(p=META | {"moe_args": {"num_experts": 16}}), "describes a mixture of experts"),
    ],
}  # fmt: skip
SHUFFLED = lambda: plain_tensors()[::-1]  # noqa: E731
ALL_NUMBERS = {"llama.embedding_length": (I64, 16), "llama.block_count": (U8, 2), "llama.context_length": (I64, 512),
               "llama.rope.freq_base": (F64, 5e5)}  # fmt: skip
PER_LAYER = {"llama.attention.head_count": ([I64], [4, 4]), "llama.attention.head_count_kv": ([U8], [2, 2]),
             "llama.feed_forward_length": ([I64], [48, 48])}  # fmt: skip
GGUF_FILES: dict[str, list[Case]] = {
    "version 2 or 3": [
        Case(ggufs()),
        Case(ggufs(after=patched(4, struct.pack("<I", 2)))),
        *(Case(with_gguf(lambda w, a=size: w.add_custom_alignment(a))) for size in (8, 64, 4096)),  # type: ignore[misc]
        Case(with_gguf(stored=SHUFFLED)),
    ],
    "F32, F16, BF16, F64": [
        Case(with_gguf(stored=lambda: plain_tensors(Kind.F64, np.float64)), check=lambda s: s.dtype == torch.float32),
        Case(with_gguf(stored=lambda: plain_tensors(Kind.F16, np.float16)),
             tensors=lambda tensors: {k: t.half().float() for k, t in tensors.items()}),
        Case(ggufs(kind=Kind.BF16)),
    ],
    "integers of any width": [
        Case(with_gguf(fields=ALL_NUMBERS), check=has((5e5, None))),
        Case(with_gguf(fields=PER_LAYER)),
        Case(with_gguf(fields={"llama.attention.head_count_kv": ([U8], [1, 2])}), "head_count_kv differs from layer"),
    ],
    "no `rope.freq_base`": [
        Case(with_gguf(fields={"llama.rope.freq_base": None}), check=has((1e4, None))),
        Case(with_gguf(fields={"llama.attention.head_count_kv": None}),
             r"attn_k\.weight has shape \(8, 16\), .*\(16, 16\)"),
        Case(ggufs(tensors={k: v for k, v in weights(GGUF).items() if k != "output.weight"}),
             tensors=EMBEDDINGS_AS_HEAD),
    ],
    "`tokenizer.ggml.pre` is": [
        Case(with_gguf(fields={"tokenizer.ggml.pre": (STRING, pre)}),
             check=lambda source: source.vocabulary.pattern is None)
        for pre in ("llama3", "llama-v3", "llama-bpe")
    ],
    "linear rotary scaling by 1": [
        Case(with_gguf(fields={"llama.rope.scaling.type": (STRING, "linear")})),
        Case(with_gguf(fields={"llama.rope.scaling.factor": (F32, 1.0)})),
        Case(with_gguf(fields={"llama.rope.scaling.factor": (F32, 0.0)})),
        Case(with_gguf(fields={"llama.rope.scaling.type": (STRING, "none"), "llama.rope.scaling.factor": (F32, 4.0)})),
    ],
    "frequencies in each layer": [
        Case(with_gguf(stored=lambda: [*plain_tensors(), ("blk.0.attn_rot_embd.weight", np.ones(4, "f4"), Kind.F32)]))
    ],
    "a vector that is stored": [
        Case(with_gguf(stored=lambda: [(n, d.reshape(1, -1) if d.ndim == 1 else d, k) for n, d, k in plain_tensors()]))
    ],
    "version 1, or": [
        Case(ggufs(after=patched(4, struct.pack("<I", 1))),
             "is GGUF version 1; only 2 and 3 are supported; make a new file"),
        Case(ggufs(after=patched(4, struct.pack("<I", 4))), "is GGUF version 4; only 2 and 3"),
        *(Case(ggufs(after=lambda p, m=magic: p.write_bytes(m + bytes([1]) * 99)), "from before GGUF")  # type: ignore[misc]
          for magic in (b"lmgg", b"tjgg")),
    ],
    "big-endian": [Case(ggufs(after=patched(4, struct.pack(">I", 3))), "is big-endian, .* gguf-convert-endian")],
    "a tensor in a type": [
        Case(ggufs(after=with_type(number)),
             rf"m\.gguf has the tensor blk\.0\.ffn_up\.weight in type {called}, which is not supported; use a file of")
        for number, called in {41: r"41 \(Q1_0\)", 31: r"31 \(Q4_0_4_4\)", 4: r"4 \(Q4_2\)", 15: r"15 \(Q8_K\)",
                               42: "42", 99: "99"}.items()
    ],
    "a tensor of integers": [
        Case(ggufs(after=with_type(24)), r"ffn_up\.weight is stored in type 24 \(I8\), an integer type")
    ],
    "one part of several": [
        Case(ggufs("m-00001-of-00003.gguf", extra={"split.count": 3, "split.no": 0}),
             r"one part of several \(1 of 3\); merge"),
        Case(ggufs("m-00002-of-00003.gguf", extra={"split.count": 3, "split.no": 1}, tensors={}), r"\(2 of 3\); merge"),
    ],
    "no `tokenizer.ggml.pre`": [
        Case(with_gguf(fields={"tokenizer.ggml.pre": None}),
             r"field tokenizer\.ggml\.pre .* is missing, .* a later converter")
    ],
    "other rotary scaling": [
        Case(with_gguf(fields={"llama.rope.scaling.type": (STRING, "yarn")}), "'yarn' rotary scaling"),
        Case(with_gguf(fields={"llama.rope.scaling.factor": (F32, 2.0)}), "'linear' rotary scaling"),
        Case(with_gguf(fields={"llama.rope.scale_linear": (F32, 4.0)}), "'linear' rotary scaling"),
    ],
    "scaled attention, or": [
        Case(with_gguf(fields={"llama.rope.scaling.attn_factor": (F32, 2.0)}), "scales its attention by 2"),
        Case(with_gguf(fields={"llama.attention.causal": (gguf.GGUFValueType.BOOL, False)}), "attends to later pos"),
    ],
    "another architecture, an": [
        Case(ggufs(architecture="qwen2"), "of architecture 'qwen2'; only llama"),
        Case(ggufs(architecture="clip"), "of architecture 'clip'; only llama"),
        Case(ggufs(extra={"general.type": "adapter"}), "type is 'adapter'"),
        Case(ggufs(tensors={}), "holds no tensors, only a vocabulary"),
        Case(ggufs(extra={"llama.expert_count": 8}), "a mixture of experts"),
    ],
    "tensors missing, unknown": [
        Case(ggufs(tensors={k: v for k, v in weights(GGUF).items() if k != "norm.weight"}),
             r"lacks the tensor output_norm"),
        Case(ggufs(tensors=weights(GGUF) | {"layers.7.ffn_norm.weight": torch.ones(16)}),
             r"does not have: blk\.7\.ffn_norm"),
        Case(ggufs(tensors=weights(GGUF) | {"norm.weight": torch.ones(8)}), r"output_norm\.weight has shape \(8,\)"),
    ],
}  # fmt: skip
TABLES = {
    "Which family": FAMILIES,
    "Failed downloads and copies": WENT_WRONG,
    "Hugging Face directories: files": HUGGING_FACE_FILES,
    "Hugging Face directories: `config.json`": HUGGING_FACE_FIELDS,
    "Hugging Face directories: tensors": HUGGING_FACE_TENSORS,
    "Meta's directories": META_DIRECTORIES,
    "GGUF": GGUF_FILES,
}


def lines() -> list[tuple[str, str, str]]:
    """(heading, what lies there, what happens) of every line of the page's tables."""
    found, heading = list[tuple[str, str, str]](), ""
    for line in (ROOT / "docs" / "checkpoints.md").read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif (cells := LINE.fullmatch(line)) and cells[2].startswith(("read", "refused")):
            found.append((heading, cells[1], cells[2]))
    return found


def cases_of(heading: str, line: str) -> list[Case]:
    """The cases whose first words are the line's; the longest that fit."""
    fitting = [words for words in TABLES[heading] if line.startswith(words)]
    return TABLES[heading][max(fitting, key=len)] if fitting else []


@pytest.fixture(autouse=True)
def tokenizer(golden: Path) -> None:
    TOKENIZER[:] = [golden / "tiny-llama3" / "tokenizer.model"]


def tensors_of(source: Source) -> Tensors:
    """Every tensor, whole, the head being the embeddings where it is."""
    names = weights(META)
    return {
        name: torch.cat(list(source.rows("tok_embeddings.weight" if source.tied and name == "output.weight" else name)))
        for name in names
    }


def expected(source: Source, directory: Path) -> Tensors:
    if source.description.startswith("Hugging"):
        return hf_tensors(directory)
    return weights(META) if source.description.startswith("Meta") else all_at(weights(GGUF), torch.float32)


@pytest.mark.parametrize(("heading", "line", "happens"), lines(), ids=[line for _, line, _ in lines()])
def test_a_line_of_the_table_is_true(heading: str, line: str, happens: str, tmp_path: Path) -> None:
    """Read as the same tensors; or refused in a line that names the path, with "again" for damaged bytes only."""
    cases = cases_of(heading, line)
    assert cases, f"no case for: {line}"
    assert any((case.said is None) == happens.startswith("read") for case in cases)
    for number, case in enumerate(cases):
        directory = tmp_path / str(number)
        directory.mkdir()
        path = case.make(directory)
        if case.said is None:
            source = open_source(path)
            wanted = expected(source, directory)
            wanted = wanted if case.tensors is None else case.tensors(wanted)
            found = tensors_of(source)
            assert same(found, wanted), (line, number)
            assert case.check(source), (line, number)
            continue
        with pytest.raises((CheckpointError, TokenizerError), match=case.said) as refusal:
            open_source(path)
        said = str(refusal.value)
        assert said.isprintable() and len(said) < 600
        assert str(directory) in said or str(path) in said
        if heading != "Failed downloads and copies" and line != "not JSON":
            assert "again" not in said.replace("save it again", ""), said


def test_every_case_belongs_to_a_line() -> None:
    """So no line can be taken from the page, or worded anew, without its cases."""
    used = {(heading, line) for heading, line, _ in lines()}
    for heading, table in TABLES.items():
        for words in table:
            assert any(cases_of(heading, line) is table[words] for of, line in used if of == heading), words


@pytest.mark.parametrize("stray", [False, True])
def test_the_chat_format_that_is_asked_for_counts_beside_a_stray_settings_file(stray: bool, tmp_path: Path) -> None:
    """As it does without one: a format that there is not is refused."""
    directory = hf(after=placed("params.json", b"{}") if stray else None)(tmp_path)
    with pytest.raises((CheckpointError, TokenizerError), match="none such"):
        open_source(directory, None, "none such")
