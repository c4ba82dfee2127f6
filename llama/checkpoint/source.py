"""The common interface of all open checkpoints: Meta's names, Meta's layout, whole tensors.

Knows: the parts that the readers share.
Knows nothing about: any file format.
"""

from __future__ import annotations

import contextlib
import errno
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from llama.checkpoint.vocabulary import Vocabulary
from llama.dtypes import DTYPES
from llama.errors import CheckpointError
from llama.files import shown
from llama.model_args import ModelArgs

_NO_ACCESS = (errno.EACCES, errno.EPERM)


class Source(Protocol):
    """An open checkpoint that holds exactly the tensors of ``layout.tensor_shapes(args)``."""

    description: str
    """Kind of checkpoint, for people to read."""
    args: ModelArgs
    """Hyperparameters; ``vocab_size`` and ``n_kv_heads`` are always given."""
    vocabulary: Vocabulary
    context_length: int
    """Longest context of the model, in positions."""
    dtype: torch.dtype
    """Default dtype of the halves."""
    tied: bool
    """True if there is no ``output.weight`` and the embeddings serve as the output head."""

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """Yield the tensor ``name``, unsharded, as consecutive contiguous slabs along its first dimension.

        Raises:
            CheckpointError: the data are damaged or contradictory.
        """


@contextlib.contextmanager
def damage_refused(path: Path) -> Iterator[None]:
    """Turn unexpected errors of a reader into a refusal. Readers name the damage they know; files can have other.

    Raises:
        CheckpointError: replaces any error that the file's damage causes.
    """
    try:
        yield
    except OSError as err:
        raise unreadable(path, err) from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{path} cannot be used ({type(err).__name__} while reading it): it is damaged, or this "
            f"machine has too little memory; get the file again, or use a larger machine"
        ) from None


def unreadable(path: Path, err: OSError) -> CheckpointError:
    """Return the error for a file or directory that cannot be read. It says why and what to do."""
    if isinstance(err, FileNotFoundError) and path.is_symlink():
        return CheckpointError(
            f"{path} is a link to {shown(str(path.readlink()))}, which does not exist; get that "
            f"file, or copy the directory with links followed (cp -rL)"
        )
    reason = err.strerror or type(err).__name__
    if err.errno in _NO_ACCESS:
        reason += "; give this user read permission"
    elif err.errno == errno.ENOENT:
        reason += "; finish the download"
    else:
        reason += "; replace it with a readable file"
    return CheckpointError(f"{path} cannot be read: {reason}")


def distinct_files(files: Sequence[Path]) -> None:
    """Refuse one file under two names: links could pose as many files without taking any disk space.

    Raises:
        CheckpointError: names both; or the status of a file cannot be read.
    """
    names = dict[tuple[int, int], str]()
    for path in files:
        try:
            found = path.stat()
        except OSError as err:
            raise unreadable(path, err) from None
        first = names.setdefault((found.st_dev, found.st_ino), path.name)
        if first != path.name:
            raise CheckpointError(
                f"{path} is the same file as {shown(first)}; replace it with the file that belongs there"
            )


def prevailing_dtype(tensors: Iterable[tuple[str, int, torch.dtype | str]], where: str) -> torch.dtype:
    """Return the dtype of most elements, from (name, number of elements, dtype) of each tensor.

    float64 counts as float32, because :func:`narrowed` converts it. A dtype that torch lacks is given by its name.

    Raises:
        CheckpointError: a tensor has another dtype than float64 and the three of a half, as quantised tensors do.
    """
    elements: Counter[torch.dtype] = Counter()
    for name, count, dtype in tensors:
        dtype = torch.float32 if dtype == torch.float64 else dtype
        if dtype not in DTYPES.values() or isinstance(dtype, str):
            raise CheckpointError(
                f"{where}: {shown(name)} is stored as {shown(str(dtype).removeprefix('torch.'))}; supported are "
                f"{', '.join([*DTYPES, 'float64'])}; use a release in one of these, not a quantised one"
            )
        elements[dtype] += count
    return elements.most_common(1)[0][0]


def narrowed(slab: torch.Tensor, name: str, where: str) -> torch.Tensor:
    """Return a slab in a dtype that a half can have: convert float64 to float32, keep all others.

    Raises:
        CheckpointError: float32 cannot hold a value.
    """
    if slab.dtype != torch.float64:
        return slab
    cast = slab.float()
    if not torch.equal(cast.isfinite(), slab.isfinite()):
        raise CheckpointError(
            f"{where}: {shown(name)} has float64 values beyond the range of float32, which are not "
            f"supported; use a release in float32 or smaller"
        )
    return cast


def check_vocabulary(vocabulary: Vocabulary, vocab_size: int, where: str) -> None:
    """Refuse a tokenizer with ids that the embedding table lacks.

    Raises:
        CheckpointError: the tokenizer has more tokens than the model has embeddings.
    """
    if vocabulary.n_words > vocab_size:
        raise CheckpointError(
            f"{where}: the tokenizer has {vocabulary.n_words} tokens, but the model has embeddings for {vocab_size}; "
            "use the tokenizer that belongs to these weights"
        )
