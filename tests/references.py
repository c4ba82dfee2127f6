"""Meta's reference's numbers for the small checkpoint of tests/data, and how near to them one comes.

Knows: the files in tests/data. Knows nothing about: who is compared with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of

LENGTH = 24  # of the reference's replies
BF16_BOUND = 0.06  # 0.055 was measured: one more or less in the last place of a few bf16 logits


@dataclass(frozen=True)
class Reference:
    """What Meta's code made of the texts: ids, begin-of-text included; float32 logits at each; the reply's ids."""

    tokens: list[list[int]]
    logits: list[torch.Tensor]
    greedy: list[list[int]]


def reference(golden: Path, dtype: str) -> Reference:
    said = json.loads((golden / "tiny-llama3" / f"golden-{dtype}.json").read_text())
    tensors: Mapping[str, torch.Tensor] = safetensors.torch.load_file(
        golden / "tiny-llama3" / f"golden-{dtype}.safetensors"
    )
    return Reference(said["tokens"], [tensors[f"logits.{n}"] for n in range(len(said["tokens"]))], said["greedy_24"])


def stop_ids(out: Path) -> tuple[int, ...]:
    half = read_half(out / "edge", "edge")
    return tuple(chat_format_of(half, tokenizer_of(half)).stop_ids)
