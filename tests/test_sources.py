"""Checkpoints of every family come in as the same tensors under Meta's names, and what is not supported is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from llama.checkpoint.halves import read_half
from llama.checkpoint.opening import open_source
from llama.checkpoint.shape_rules import feed_forward_fields
from llama.checkpoint.splitting import split
from llama.errors import CheckpointError, TokenizerError
from llama.model_args import ModelArgs
from tests.small_checkpoints import (
    LLAMA_3_1_ROPE,
    Tensors,
    gguf_name,
    logits,
    params,
    random_llama,
    read_back,
    same,
    weights,
    whole,
    write_gguf,
    write_hugging_face,
    write_meta,
)

Kind = gguf.GGMLQuantizationType


@pytest.fixture
def tokenizer(golden: Path) -> Path:
    return golden / "tiny-llama3" / "tokenizer.model"


def tensors_of(path: Path) -> Tensors:
    """Every tensor of a source, whole."""
    source = open_source(path)
    names = whole_names(source.args.n_layers)
    return {
        name: torch.cat(list(source.rows("tok_embeddings.weight" if source.tied and name == "output.weight" else name)))
        for name in names
    }


def whole_names(n_layers: int) -> list[str]:
    p = params(n_layers=n_layers)
    return list(weights(p))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


# --- Hugging Face ---------------------------------------------------------------------------------------------------


def test_both_spellings_of_the_rotary_settings_mean_the_same(tmp_path: Path) -> None:
    """`rope_theta` beside `rope_scaling`, as before transformers 5, gives the arguments that `rope_parameters` does."""
    directory = write_hugging_face(tmp_path, random_llama(rope_parameters=LLAMA_3_1_ROPE))
    new = open_source(directory).args

    def old_spelling(config: dict[str, Any]) -> None:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope

    edit_json(directory / "config.json", old_spelling)
    assert open_source(directory).args == new
    assert (new.use_scaled_rope, new.rope_scaling_factor, new.rope_theta) == (True, 8.0, 500000.0)


def test_a_flag_overrules_the_scaling_factor_only_where_there_is_scaling(tmp_path: Path) -> None:
    """--rope_scaling_factor replaces the file's 8; without scaled rotary embeddings, or below 1, it is refused."""
    scaled = write_hugging_face(tmp_path / "scaled", random_llama(rope_parameters=LLAMA_3_1_ROPE))
    plain = write_hugging_face(tmp_path / "plain", random_llama())
    assert open_source(scaled, 32.0).args.rope_scaling_factor == 32.0
    with pytest.raises(CheckpointError, match="omit --rope_scaling_factor"):
        open_source(plain, 32.0)
    with pytest.raises(CheckpointError, match=r"must be 1 or more \(got 0\.5\)"):
        open_source(scaled, 0.5)


def test_a_half_precision_directory_stays_in_half_precision(tmp_path: Path) -> None:
    """Stored bf16 is written as bf16, bit for bit, and as another dtype only if asked."""
    directory = write_hugging_face(tmp_path / "hf", random_llama().bfloat16(), max_shard_size="1GB")
    stored = safetensors.torch.load_file(directory / "model.safetensors")
    split(open_source(directory), tmp_path / "out")
    split(open_source(directory), tmp_path / "f32", dtype=torch.float32)
    assert read_half(tmp_path / "out" / "edge", "edge").dtype == torch.bfloat16
    as_it_is, as_asked = whole(tmp_path / "out"), whole(tmp_path / "f32")
    assert torch.equal(as_it_is["layers.1.feed_forward.w2.weight"], stored["model.layers.1.mlp.down_proj.weight"])
    assert same(as_asked, {name: tensor.float() for name, tensor in as_it_is.items()})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
            "another architecture .*MistralForCausalLM",
        ),
        ({"attention_bias": True}, "biases"),
        ({"mlp_bias": True}, "biases"),
        ({"head_dim": 32}, "head_dim 32"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn' rotary scaling"),
        ({"rope_parameters": LLAMA_3_1_ROPE | {"low_freq_factor": 2.0}}, "low_freq_factor .* must be 1"),
        ({"rope_parameters": LLAMA_3_1_ROPE | {"original_max_position_embeddings": 4096}}, "must be 8192"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "lack the number low_freq_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"hidden_size": None}, r"hidden_size"),
        ({"num_attention_heads": 3}, "do not fit together"),
        ({"num_hidden_layers": 4}, r"lacks the tensor model\.layers\.3\."),
        ({"num_hidden_layers": 2}, r"does not have: model\.layers\.2\."),
        ({"intermediate_size": 160}, r"mlp\..* has shape \(.*\), config\.json requires"),
        ({"vocab_size": 100}, r"embed_tokens\.weight has shape"),
    ],
)
def test_a_config_that_is_not_supported_is_refused_by_what_it_says(
    change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    """Whatever would give other numbers than transformers does, and whatever contradicts the tensors."""
    directory = write_hugging_face(tmp_path, random_llama())
    edit_json(directory / "config.json", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=complaint):
        open_source(directory)


def test_a_missing_output_head_is_a_tied_one_only_if_the_config_says_so(tmp_path: Path) -> None:
    """With tie_word_embeddings false, or unsaid (which is false), transformers would make a head up."""
    directory = write_hugging_face(tmp_path, random_llama(tie_word_embeddings=True))
    assert open_source(directory).tied
    for change in (
        lambda config: config.pop("tie_word_embeddings"),
        lambda config: config.update(tie_word_embeddings=False),
    ):
        edit_json(directory / "config.json", change)
        with pytest.raises(CheckpointError, match=r"lacks the tensor lm_head\.weight, .* set tie_word_embeddings to"):
            open_source(directory)


def test_incomplete_or_damaged_hugging_face_directories_are_refused_by_file(tmp_path: Path) -> None:
    """Missing part, truncated part, no weights, pickled weights, a malformed index, too large a tokenizer."""

    def broken(name: str, damage: Callable[[Path], object]) -> Path:
        directory = write_hugging_face(tmp_path / name, random_llama(num_hidden_layers=2))
        damage(directory)
        return directory

    def part(directory: Path) -> Path:
        return sorted(directory.glob("model-*.safetensors"))[1]

    def without_weights(directory: Path) -> None:
        for file in directory.glob("model*"):
            file.unlink()

    def pickled(directory: Path) -> None:
        without_weights(directory)
        (directory / "pytorch_model.bin").touch()

    index = "model.safetensors.index.json"
    cases: list[tuple[str, Callable[[Path], object], str]] = [
        ("missing", lambda d: part(d).unlink(), r"lacks model-00002-of-\d+\.safetensors"),
        ("cut", lambda d: part(d).write_bytes(part(d).read_bytes()[:-10]), r"00002-of-\d+\.safetensors is damaged"),
        ("none", without_weights, "finish the download"),
        ("pickle", pickled, "use a safetensors version"),
        ("index", lambda d: (d / index).write_text("{"), "index.json is malformed"),
        ("outside", lambda d: (d / index).write_text('{"weight_map": {"x": "../x"}}'), "outside its directory"),
        ("json", lambda d: (d / "config.json").write_bytes(b"\xff{"), "is not JSON"),
    ]
    for name, damage, complaint in cases:
        with pytest.raises(CheckpointError, match=complaint):
            open_source(broken(name, damage))
    with pytest.raises(CheckpointError, match="tokenizer has 260 tokens, but the model has embeddings for 256"):
        open_source(write_hugging_face(tmp_path / "small", random_llama(vocab_size=256)))


@pytest.mark.parametrize("dim", [64, 576, 2048, 3072, 4096, 5120, 8192])
def test_any_feed_forward_width_can_be_written_in_metas_fields(dim: int) -> None:
    """multiple_of and ffn_dim_multiplier are found for widths below, at and above what the rule gives by itself."""
    for hidden in {1, 3, dim // 2, dim, 2 * dim, int(8 * dim / 3), int(8 * dim / 3) + 1, 4 * dim, 14336, 9973}:
        multiple_of, multiplier = feed_forward_fields(dim, hidden)
        assert ModelArgs(dim=dim, multiple_of=multiple_of, ffn_dim_multiplier=multiplier).hidden_dim == hidden


# --- GGUF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0])
def test_a_gguf_gives_the_values_that_its_library_reads(kind: Kind, tmp_path: Path) -> None:
    """Every tensor equals the gguf library's dequantisation of the whole file, in Meta's shape, as float32."""
    p = params(vocab_size=264)
    path = write_gguf(tmp_path / "x.gguf", p, weights(p), kind)
    oracle = {t.name: torch.tensor(gguf.dequantize(t.data, t.tensor_type)) for t in gguf.GGUFReader(path).tensors}
    found = tensors_of(path)
    assert same(found, {name: oracle[gguf_name(name)] for name in weights(p)})
    args = open_source(path).args
    assert (args.dim, args.n_layers, args.n_heads, args.n_kv_heads, args.vocab_size) == (64, 3, 8, 4, 264)
    assert (args.norm_eps, args.rope_theta, args.hidden_dim, args.use_scaled_rope) == (1e-5, 5e5, 192, False)


def test_a_gguf_and_a_meta_directory_of_the_same_weights_are_the_same_model(tokenizer: Path, tmp_path: Path) -> None:
    """Query and key rows of a GGUF are in Meta's order already: equal logits, not only equal shapes."""
    p = params()
    tensors = weights(p, torch.float32)
    split(open_source(write_meta(tmp_path / "meta", p, tensors, tokenizer)), tmp_path / "a")
    split(open_source(write_gguf(tmp_path / "x.gguf", p, tensors)), tmp_path / "b")
    ids = list(range(40, 80))
    assert torch.equal(logits(tmp_path / "a", ids), logits(tmp_path / "b", ids))


def llama_cpp_factors(factor: float, head_dim: int, theta: float) -> np.ndarray[Any, Any]:
    """Divisors of the rotary frequencies, as llama.cpp's converter makes them (`conversion/llama.py`)."""
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < 8192 / 4:
            divisors.append(1.0)
        elif wavelength > 8192:
            divisors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_scaling_factor_of_a_gguf_is_read_off_its_table(factor: float, tmp_path: Path) -> None:
    """`rope_freqs.weight` of Llama 3.1 (8) and of the small 3.2 (32); a table of any other kind is refused."""
    p = params(vocab_size=264, dim=256, n_heads=4, n_kv_heads=2)
    table = llama_cpp_factors(factor, 64, 5e5)
    args = open_source(write_gguf(tmp_path / "x.gguf", p, weights(p), rope_factors=table)).args
    assert (args.use_scaled_rope, args.rope_scaling_factor) == (True, factor)
    for number, wrong in enumerate((table[::-1], table[:-1], np.linspace(1, 8, 32))):
        with pytest.raises(CheckpointError, match=r"not Llama 3\.1's rotary scaling"):
            open_source(write_gguf(tmp_path / f"{number}.gguf", p, weights(p), rope_factors=wrong))


def test_a_gguf_without_an_output_head_is_tied(tmp_path: Path) -> None:
    """Both halves get the embeddings: the edge as its table, the cloud as its output head."""
    p = params(vocab_size=264)
    tensors = weights(p, torch.float32)
    del tensors["output.weight"]
    split(open_source(write_gguf(tmp_path / "x.gguf", p, tensors)), tmp_path / "out")
    assert same(whole(tmp_path / "out"), tensors | {"output.weight": tensors["tok_embeddings.weight"]})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architecture": "qwen2"}, "architecture 'qwen2'"),
        ({"extra": {"llama.expert_count": 8}}, "mixture of experts"),
        ({"extra": {"split.count": 2}}, "one part of several"),
        ({"extra": {"llama.rope.scaling.type": "yarn"}}, "'yarn' rotary scaling"),
        ({"extra": {"llama.attention.key_length": 16}}, r"llama\.attention\.key_length differs"),
        ({"extra": {"llama.rope.dimension_count": 4}}, r"llama\.rope\.dimension_count differs"),
        ({"leave_out": "block_count"}, r"metadata field llama\.block_count is missing"),
    ],
)
def test_a_gguf_that_is_not_supported_is_refused_by_field(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    """Another architecture or another use of the metadata never passes for a Llama."""
    p = params(vocab_size=264)
    with pytest.raises(CheckpointError, match=complaint):
        open_source(write_gguf(tmp_path / "x.gguf", p, weights(p), **changes))


def test_a_gguf_whose_tensors_do_not_fit_is_refused_by_tensor(tmp_path: Path) -> None:
    """Missing, of another shape, or one that a Llama does not have."""
    p = params(vocab_size=264)
    whole_model = weights(p)
    missing = {name: tensor for name, tensor in whole_model.items() if name != "layers.1.ffn_norm.weight"}
    shape = whole_model | {"norm.weight": torch.ones(32)}
    extra = whole_model | {"layers.3.ffn_norm.weight": torch.ones(64)}
    for number, (tensors, complaint) in enumerate(
        [
            (missing, r"lacks the tensor blk\.1\.ffn_norm"),
            (shape, r"output_norm\.weight has shape \(32,\)"),
            (extra, r"does not have: blk\.3\.ffn_norm"),
        ]
    ):
        with pytest.raises(CheckpointError, match=complaint):
            open_source(write_gguf(tmp_path / f"{number}.gguf", p, tensors))


def test_a_damaged_gguf_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    """Cut in the header, the metadata or the tensors, or overwritten: one line, never another exception."""
    p = params(vocab_size=264)
    data = write_gguf(tmp_path / "x.gguf", p, weights(p)).read_bytes()
    path = tmp_path / "cut.gguf"
    for size in (0, 3, 10, 30, 200, 5000, 9000, len(data) // 2, len(data) - 64):
        path.write_bytes(data[:size])
        with pytest.raises((CheckpointError, TokenizerError), match=r"cut\.gguf"):
            open_source(path)
    path.write_bytes(b"GGUF" + b"\xff" * 5000)
    with pytest.raises(CheckpointError, match="damaged, incomplete or not a GGUF"):
        open_source(path)


# --- Meta -----------------------------------------------------------------------------------------------------------


def test_one_and_two_shards_of_the_same_release_are_the_same_model(golden: Path, tmp_path: Path) -> None:
    """Equal fingerprints, equal params, and every tensor equal to what plain torch reads from the release."""
    prints = [
        split(open_source(golden / name), tmp_path / name, split_layer=2) for name in ("tiny-llama3", "tiny-llama3-mp2")
    ]
    assert prints[0] == prints[1]
    one, two = ((tmp_path / name / "edge" / "params.json").read_bytes() for name in ("tiny-llama3", "tiny-llama3-mp2"))
    assert one == two
    assert same(whole(tmp_path / "tiny-llama3"), whole(tmp_path / "tiny-llama3-mp2"))
    original = torch.load(golden / "tiny-llama3" / "consolidated.00.pth", weights_only=True)
    assert same(whole(tmp_path / "tiny-llama3"), original)


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("embeddings_along", [0, 1])
def test_shards_are_put_together_along_the_dimension_that_each_tensor_is_cut(
    shards: int, embeddings_along: int, tokenizer: Path, tmp_path: Path
) -> None:
    """From any number of shards the original tensors, whether embeddings are cut as in Llama 3 or as in Llama 2."""
    p = params()
    directory = write_meta(tmp_path, p, weights(p), tokenizer, shards, embeddings_along)
    assert same(tensors_of(directory), weights(p))


def test_405bs_doubled_heads_are_halved_only_if_every_pair_is_equal(tokenizer: Path, tmp_path: Path) -> None:
    """As many shards as stored heads and equal pairs in every layer: one of each is kept, the model is the same."""
    p, stored = params(n_kv_heads=2), params(n_kv_heads=4)
    tensors = weights(p)

    def doubled(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(2, 8, 64).repeat_interleave(2, 0).view(32, 64)

    twice = {name: doubled(t) if name.split(".")[-2] in ("wk", "wv") else t for name, t in tensors.items()}
    source = open_source(write_meta(tmp_path / "doubled", stored, twice, tokenizer, 4))
    assert source.args.n_kv_heads == 2
    assert same(tensors_of(tmp_path / "doubled"), tensors)
    plain = split(open_source(write_meta(tmp_path / "plain", p, tensors, tokenizer)), tmp_path / "a")
    assert split(source, tmp_path / "b") == plain

    twice["layers.2.attention.wv.weight"][0, 0] += 1  # one value in the last layer
    other = open_source(write_meta(tmp_path / "other", stored, twice, tokenizer, 4))
    assert other.args.n_kv_heads == 4
    assert same(tensors_of(tmp_path / "other"), twice)


@pytest.mark.long
def test_what_params_json_leaves_unsaid_follows_the_release(golden: Path, tokenizer: Path, tmp_path: Path) -> None:
    """Rotary base and factor, vocabulary, key/value heads and context of Llama 2, Code Llama, 3, 3.1 and 3.2."""

    def opened(name: str, **changes: Any) -> tuple[float, float, int | None, int, int]:
        p = params(**changes)
        tensors = weights(p | {"vocab_size": 514 if p.get("vocab_size", -1) == -1 else p["vocab_size"]})
        source = open_source(write_meta(tmp_path / name, p, tensors, tokenizer))
        args = source.args
        return args.rope_theta, args.rope_scaling_factor, args.n_kv_heads, args.vocab_size, source.context_length

    assert opened("2", rope_theta=None, n_kv_heads=None, vocab_size=-1) == (1e4, 8.0, 8, 514, 4096)
    assert opened("code", rope_theta=1e6) == (1e6, 8.0, 4, 520, 16384)
    assert opened("3") == (5e5, 8.0, 4, 520, 8192)
    assert opened("3.1", use_scaled_rope=True) == (5e5, 8.0, 4, 520, 131072)
    small = {"dim": 2048, "n_heads": 64, "n_layers": 2, "n_kv_heads": 1, "multiple_of": 64}
    assert opened("3.2", use_scaled_rope=True, **small) == (5e5, 32.0, 1, 520, 131072)


def test_peculiarities_of_released_files_are_taken_in_stride(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Params under `model`, unknown fields, rope.freqs, one storage for all, no output head, consolidated.pth."""
    p = params()
    tensors = weights(p)
    directory = write_meta(tmp_path / "x", p, {}, tokenizer)
    (directory / "params.json").write_text(json.dumps({"model": p | {"new_field": 1}}))
    (directory / "consolidated.00.pth").unlink()
    one_storage = torch.cat([tensor.flatten() for tensor in tensors.values()])
    views, at = {"rope.freqs": torch.ones(4)}, 0
    for name, tensor in tensors.items():
        views[name] = one_storage[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    del views["output.weight"]
    torch.save(views, directory / "consolidated.pth")

    source = open_source(directory)
    assert "ignored unknown fields: new_field" in capsys.readouterr().err
    assert source.tied
    split(source, tmp_path / "out")
    assert same(whole(tmp_path / "out"), tensors | {"output.weight": tensors["tok_embeddings.weight"]})


def test_a_storage_shared_by_head_and_embeddings_becomes_two(tokenizer: Path, tmp_path: Path) -> None:
    """Meta's 1B and 3B store one matrix under two names; each half has its own copy and nothing more."""
    p = params(n_layers=2)
    tensors = weights(p)
    tensors["output.weight"] = tensors["tok_embeddings.weight"]
    split(open_source(write_meta(tmp_path / "x", p, tensors, tokenizer)), tmp_path / "out")
    assert same(whole(tmp_path / "out"), tensors)
    for half in ("edge", "cloud"):
        size = sum(t.nbytes for t in read_back(tmp_path / "out", half)[0].values())
        assert (tmp_path / "out" / half / "consolidated.00.pth").stat().st_size < size + 10_000


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        *(
            ({key: None}, f"required field `{key}`")
            for key in ("dim", "n_layers", "n_heads", "multiple_of", "norm_eps")
        ),
        ({"dim": "64"}, r"Expected `int`, got `str` - at `\$\.dim`"),
        ({"n_heads": 7}, "do not fit together"),
        ({"n_kv_heads": 3}, "do not fit together"),
        ({"n_layers": 0}, "do not fit together"),
        ({"n_layers": 2}, r"does not have: layers\.2\."),
        ({"n_layers": 4}, r"lacks the tensor layers\.3\."),
        ({"multiple_of": 256}, r"w1\.weight has shape \(192, 64\).* require \(256, 64\)"),
        ({"vocab_size": 512}, r"tok_embeddings\.weight has shape"),
        ({"quantization_args": {"scheme": "int4"}}, "quantised"),
        ({"lora_args": {"rank": 16}}, "quantised"),
        ({"vision_chunk_size": 448}, "vision model"),
        ({"moe_args": {"num_experts": 16}}, "mixture of experts"),
        ({"split": {}}, "already one half"),
    ],
)
def test_a_params_json_that_cannot_be_is_refused_by_field(
    change: dict[str, Any], complaint: str, tokenizer: Path, tmp_path: Path
) -> None:
    """A needed field that is missing is named; so is whatever contradicts the tensors or is of another kind."""
    directory = write_meta(tmp_path, params() | {"n_layers": 3}, weights(params()), tokenizer)
    (directory / "params.json").write_text(json.dumps({k: v for k, v in (params() | change).items() if v is not None}))
    with pytest.raises(CheckpointError, match=complaint):
        open_source(directory)


def test_incomplete_or_damaged_meta_directories_are_refused_by_file(tokenizer: Path, tmp_path: Path) -> None:
    """Shards missing in the middle or at the end, truncated, of different releases, fp8, foreign tensors, pickles."""
    p, tensors = params(), weights(params())

    def broken(name: str, damage: Callable[[Path], object]) -> Path:
        directory = write_meta(tmp_path / name, p, tensors, tokenizer, shards=4)
        damage(directory)
        return directory

    def save(directory: Path, contents: object, shard: int = 1) -> None:
        torch.save(contents, directory / f"consolidated.{shard:02d}.pth")

    def shard(directory: Path, **changes: torch.Tensor) -> Tensors:
        held: Tensors = torch.load(directory / "consolidated.01.pth", weights_only=True)
        return held | changes

    def without(directory: Path, name: str) -> Tensors:
        return {k: v for k, v in shard(directory).items() if k != name}

    def without_shards(directory: Path) -> None:
        for file in directory.glob("*.pth"):
            file.unlink()

    norm = "layers.1.ffn_norm.weight"
    one = "consolidated.01.pth"
    cases: list[tuple[str, Callable[[Path], object], str]] = [
        ("gap", lambda d: (d / one).unlink(), r"lacks consolidated\.01\.pth"),
        ("end", lambda d: (d / "consolidated.03.pth").unlink(), r"has 3 shard\(s\) of a checkpoint of 4"),
        ("cut", lambda d: (d / one).write_bytes((d / one).read_bytes()[:-99]), r"01\.pth is damaged or incomplete"),
        ("empty", lambda d: (d / one).write_bytes(b""), r"01\.pth is empty; finish the download"),
        ("pickle", lambda d: save(d, {"x": Path("x")}), r"01\.pth holds more than tensors"),
        ("list", lambda d: save(d, [torch.ones(1)]), r"01\.pth does not hold a state dict"),
        ("mixed", lambda d: save(d, tensors), r"01\.pth: tok_embeddings\.weight has shape"),
        ("lacking", lambda d: save(d, without(d, norm)), rf"01\.pth lacks the tensor {norm}"),
        ("foreign", lambda d: save(d, shard(d, extra=torch.ones(1))), r"does not have: extra"),
        ("scales", lambda d: save(d, shard(d, **{"w.scales": torch.ones(1)})), "quantised"),
        ("vision", lambda d: save(d, shard(d, **{"vision_model.x": torch.ones(1)})), "vision model"),
        ("fp8", lambda d: (d / "fp8_scales_0.pt").touch(), "fp8 release"),
        ("twice", lambda d: (d / "consolidated.1.pth").touch(), "two files for the same shard"),
        ("json", lambda d: (d / "params.json").write_text("{"), r"params\.json is not JSON"),
        ("none", without_shards, "finish the download"),
        (
            "no head in one",
            lambda d: save(d, without(d, "output.weight"), 0),
            r"00\.pth lacks the tensor output\.weight",
        ),
        ("bare", lambda d: (d / "params.json").unlink(), "has weights but no params.json"),
    ]
    for name, damage, complaint in cases:
        with pytest.raises(CheckpointError, match=complaint):
            open_source(broken(name, damage))
    whole_numbers = {name: tensor.to(torch.int8) for name, tensor in tensors.items()}
    with pytest.raises(CheckpointError, match="stored as int8"):
        open_source(write_meta(tmp_path / "int8", p, whole_numbers, tokenizer))
    with pytest.raises(CheckpointError, match=r"has 4 shards: .*515 tokens cannot be divided among 4"):
        odd_vocabulary = params(vocab_size=515)
        open_source(write_meta(tmp_path / "odd", odd_vocabulary, weights(odd_vocabulary), tokenizer, shards=4))
    with pytest.raises(CheckpointError, match=r"tokenizer has 514 tokens, but the model has embeddings for 512"):
        small = params(vocab_size=512)
        open_source(write_meta(tmp_path / "small", small, weights(small), tokenizer))
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        open_source(broken("tokenizer", lambda d: (d / "tokenizer.model").unlink()))


def test_shards_that_disagree_about_what_they_share_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    """Norms are in every shard: a shard of another release with equal shapes is found out by them."""
    p = params()
    directory = write_meta(tmp_path / "a", p, weights(p), tokenizer, 2)
    other = write_meta(tmp_path / "b", p, weights(p, seed=1), tokenizer, 2)
    (directory / "consolidated.01.pth").write_bytes((other / "consolidated.01.pth").read_bytes())
    with pytest.raises(CheckpointError, match=r"01\.pth: layers\.0\.attention_norm\.weight should equal"):
        split(open_source(directory), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- Which kind -----------------------------------------------------------------------------------------------------


def test_a_path_that_is_no_checkpoint_is_refused_with_what_to_give(golden: Path, tmp_path: Path) -> None:
    """Missing, empty, unknown, a file of another kind, a folder of GGUFs, halves: one line naming the cure."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "notes.txt").touch()
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "m.gguf").touch()
    split(open_source(golden / "tiny-llama3"), tmp_path / "halves")
    for name, complaint in {
        "missing": "does not exist; --ckpt_dir takes a Meta directory",
        "empty": "is empty; --ckpt_dir takes",
        "unknown": "holds no known checkpoint; --ckpt_dir takes",
        "unknown/notes.txt": "is not a checkpoint; --ckpt_dir takes",
        "ggufs": r"give the file itself: --ckpt_dir .*m\.gguf",
        "halves": "the two halves of a split checkpoint; give the original",
        "halves/edge": "already one half of a split checkpoint; give the original",
    }.items():
        with pytest.raises(CheckpointError, match=complaint) as refusal:
            open_source(tmp_path / name)
        assert "\n" not in str(refusal.value)


def test_the_params_of_a_half_are_strict_json(golden: Path, tmp_path: Path) -> None:
    """Plain JSON that any reader takes, with Meta's own fields at the top."""
    split(open_source(golden / "tiny-llama3"), tmp_path / "out")
    fields = msgspec.json.decode((tmp_path / "out" / "edge" / "params.json").read_bytes())
    original = json.loads((golden / "tiny-llama3" / "params.json").read_text())
    assert {key: fields[key] for key in original} == original
