"""What every kind of checkpoint looks like once it is open: Meta's names, Meta's layout, whole tensors.

Knows: what the readers have in common.
Knows nothing about: any file format.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from llama.checkpoint.vocabulary import Vocabulary
from llama.errors import CheckpointError
from llama.files import shown
from llama.model import ModelArgs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Source(Protocol):
    """An open checkpoint that holds exactly the tensors of ``layout.tensor_shapes(args)``."""

    description: str
    """What it is, for people."""
    args: ModelArgs
    """Hyperparameters; ``vocab_size`` and ``n_kv_heads`` are always given."""
    vocabulary: Vocabulary
    context_length: int
    """Positions of the longest context that the model was made for."""
    dtype: torch.dtype
    """What the halves are written in unless asked otherwise."""
    tied: bool
    """There is no ``output.weight``; the embeddings serve as the output head."""

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """The tensor ``name``, unsharded, as consecutive contiguous slabs along its first dimension.

        Raises:
            CheckpointError: the data turn out to be damaged or contradictory.
        """


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell damage that no reader knows of: each names what it does, and files from outside can be damaged otherwise.

    Raises:
        CheckpointError: in place of whatever comes of such a file.
    """
    try:
        yield
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror or type(err).__name__}") from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as err:
        raise CheckpointError(f"{path} cannot be used ({type(err).__name__} while reading it): it is damaged, get it "
                              f"again, or this machine has too little memory for it") from None  # fmt: skip


def distinct_files(files: Sequence[Path]) -> None:
    """Refuse one file under two names, which could stand for many without taking any room.

    Raises:
        CheckpointError: names both; or one cannot be looked at.
    """
    names = dict[tuple[int, int], str]()
    for path in files:
        try:
            found = path.stat()
        except OSError as err:
            raise CheckpointError(f"{path} cannot be read: {err.strerror or err}") from None
        first = names.setdefault((found.st_dev, found.st_ino), path.name)
        if first != path.name:
            raise CheckpointError(f"{path} is the same file as {shown(first)}; get the checkpoint again")


def prevailing_dtype(tensors: Iterable[tuple[str, int, torch.dtype]], where: str) -> torch.dtype:
    """The dtype that most elements have, out of (name, number of elements, dtype) of each tensor.

    Raises:
        CheckpointError: a tensor has a dtype other than the three that a half can have, as quantised ones do.
    """
    elements: Counter[torch.dtype] = Counter()
    for name, count, dtype in tensors:
        if dtype not in DTYPES.values():
            raise CheckpointError(
                f"{where}: {shown(name)} is stored as {str(dtype).removeprefix('torch.')}; quantised checkpoints are "
                f"not supported, use one in {', '.join(DTYPES)}"
            )
        elements[dtype] += count
    return elements.most_common(1)[0][0]


def check_vocabulary(vocabulary: Vocabulary, vocab_size: int, where: str) -> None:
    """Refuse a tokenizer with ids that the embedding table lacks.

    Raises:
        CheckpointError: more tokens than embeddings.
    """
    if vocabulary.n_words > vocab_size:
        raise CheckpointError(
            f"{where}: the tokenizer has {vocabulary.n_words} tokens, the model embeddings for {vocab_size}; "
            "the tokenizer belongs to another model"
        )
