"""Small random checkpoints in the layouts of Meta, Hugging Face and GGUF, written without any code of the product's.

Which dimension each tensor is cut along stands here a second time, from the documented layout of the releases, so that
the product's own table is checked against it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from llama import parallel
from llama.checkpoint.halves import load_weights, read_half
from model_cloud import CloudTransformer
from model_edge import EdgeTransformer

Tensors = dict[str, torch.Tensor]
Params = dict[str, Any]

# Released shards are contiguous equal chunks along this dimension; norms are whole in every shard.
CUT = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "tok_embeddings": 0, "output": 0}

# As llama-models and transformers write Llama 3.1's scaling.
LLAMA_3_1_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def params(**changes: Any) -> Params:
    """A params.json for 8 query and 4 key/value heads; its vocabulary has room for the small tokenizer's 514 tokens."""
    small = {
        "dim": 64,
        "n_layers": 3,
        "n_heads": 8,
        "n_kv_heads": 4,
        "multiple_of": 32,
        "norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "vocab_size": 520,
    }
    return {key: value for key, value in (small | changes).items() if value is not None}


def hidden_dim(p: Params) -> int:
    """Meta's rule, for params without a multiplier."""
    return -(-int(8 * p["dim"] / 3) // int(p["multiple_of"])) * int(p["multiple_of"])


def weights(p: Params, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensors:
    """Random unsharded tensors under Meta's names."""
    dim, hidden, vocab = p["dim"], hidden_dim(p), p["vocab_size"]
    kv = dim // p["n_heads"] * p.get("n_kv_heads", p["n_heads"])
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.1).to(dtype)

    tensors = {"tok_embeddings.weight": random(vocab, dim)}
    for i in range(p["n_layers"]):
        tensors |= {
            f"layers.{i}.attention.wq.weight": random(dim, dim),
            f"layers.{i}.attention.wk.weight": random(kv, dim),
            f"layers.{i}.attention.wv.weight": random(kv, dim),
            f"layers.{i}.attention.wo.weight": random(dim, dim),
            f"layers.{i}.feed_forward.w1.weight": random(hidden, dim),
            f"layers.{i}.feed_forward.w2.weight": random(dim, hidden),
            f"layers.{i}.feed_forward.w3.weight": random(hidden, dim),
            f"layers.{i}.attention_norm.weight": 1 + random(dim),
            f"layers.{i}.ffn_norm.weight": 1 + random(dim),
        }
    return tensors | {"norm.weight": 1 + random(dim), "output.weight": random(vocab, dim)}


def cut_along(name: str) -> int | None:
    """Dimension that Meta cuts the tensor along; None: not at all."""
    return CUT.get(name.split(".")[-2])


def write_meta(
    directory: Path, p: Params, tensors: Tensors, tokenizer: Path, shards: int = 1, embeddings_along: int = 0
) -> Path:
    """A release directory; ``embeddings_along`` is 1 for Llama 2."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "params.json").write_text(json.dumps(p))
    shutil.copy(tokenizer, directory / "tokenizer.model")
    for rank in range(shards):
        shard = {}
        for name, tensor in tensors.items():
            along = embeddings_along if name == "tok_embeddings.weight" else cut_along(name)
            shard[name] = tensor if along is None else tensor.chunk(shards, along)[rank].clone()
        torch.save(shard, directory / f"consolidated.{rank:02d}.pth")
    return directory


def read_back(out: Path, half: str) -> list[Tensors]:
    """The state dicts of a half's files, as plain torch reads them."""
    return [torch.load(file, weights_only=True) for file in sorted((out / half).glob("consolidated.*.pth"))]


def whole(out: Path) -> Tensors:
    """All tensors of two halves, those of the cloud concatenated; not for repeated key/value heads."""
    (edge,), shards = read_back(out, "edge"), read_back(out, "cloud")
    assert not edge.keys() & shards[0].keys()
    cloud = {}
    for name in shards[0]:
        along = cut_along(name)
        cloud[name] = shards[0][name] if along is None else torch.cat([shard[name] for shard in shards], along)
    return edge | cloud


def same(found: Tensors, expected: Tensors) -> bool:
    """Whether names, dtypes and values are all equal."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


def logits(out: Path, ids: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """float32 ``(len(ids), vocab)`` of the two halves, one after the other in this process."""
    parallel.start()
    edge, cloud = read_half(out / "edge", "edge"), read_half(out / "cloud", "cloud")
    assert edge.fingerprint == cloud.fingerprint
    with parallel.unfilled_weights(dtype):
        bottom, top = EdgeTransformer(edge.args, edge.split_layer), CloudTransformer(cloud.args, cloud.split_layer)
    cpu = torch.device("cpu")
    load_weights(bottom, edge, rank=0, world_size=1, dtype=dtype, device=cpu, keep_mapped=True)
    load_weights(top, cloud, rank=0, world_size=1, dtype=dtype, device=cpu, keep_mapped=False)
    rows = bottom(torch.tensor([ids]), [0], bottom.new_cache(1, len(ids)))
    result: torch.Tensor = top(rows, [0], top.new_cache(1, len(ids)), len(ids))[0]
    return result


def byte_tokens() -> list[str]:
    """The 256 characters by which byte-level BPE writes bytes, as the `tokenizers` library lists them."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_tokenizer_json(directory: Path) -> None:
    """A byte-level tokenizer.json of SmolLM2's kind with one merge, written by the `tokenizers` library."""
    tokens = [*byte_tokens(), "ab"]
    tokenizer = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(directory / "tokenizer.json"))


def random_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A transformers Llama with random weights large enough that every part of it counts."""
    transformers.set_seed(seed)
    small = {
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 264,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }
    model = LlamaForCausalLM(LlamaConfig(**(small | changes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.train(False)
    return model


def write_hugging_face(directory: Path, model: LlamaForCausalLM, max_shard_size: str = "100KB") -> Path:
    """What ``save_pretrained`` writes, and the small tokenizer."""
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    write_tokenizer_json(directory)
    return directory


GGUF_NAMES = {
    "tok_embeddings": "token_embd",
    "norm": "output_norm",
    "output": "output",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "w1": "ffn_gate",
    "w2": "ffn_down",
    "w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor that Meta calls ``name``."""
    parts = name.split(".")
    prefix = f"blk.{parts[1]}." if parts[0] == "layers" else ""
    return f"{prefix}{GGUF_NAMES[parts[-2]]}.weight"


def write_gguf(
    path: Path,
    p: Params,
    tensors: Tensors,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    rope_factors: np.ndarray[Any, Any] | None = None,
    architecture: str = "llama",
    extra: dict[str, int | str] | None = None,
    leave_out: str | None = None,
) -> Path:
    """A GGUF of Meta's tensors; matrices in the type ``kind``, norms in F32."""
    writer = gguf.GGUFWriter(path, architecture)
    numbers = {
        "embedding_length": p["dim"],
        "block_count": p["n_layers"],
        "feed_forward_length": hidden_dim(p),
        "context_length": 512,
        "attention.head_count": p["n_heads"],
        "attention.head_count_kv": p["n_kv_heads"],
    }
    for key, value in numbers.items():
        if key != leave_out:
            writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.rope.freq_base", p["rope_theta"])
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", p["norm_eps"])
    for key, number_or_text in (extra or {}).items():
        if isinstance(number_or_text, int):
            writer.add_uint32(key, number_or_text)
        else:
            writer.add_string(key, number_or_text)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*byte_tokens(), "ab", *SPECIAL])
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["a b"])
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    for name, tensor in tensors.items():
        data = tensor.float().numpy()
        if data.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(name), data)
        else:
            writer.add_tensor(gguf_name(name), gguf.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
