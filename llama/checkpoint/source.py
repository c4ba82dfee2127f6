"""What every kind of checkpoint looks like once it is open: Meta's names, Meta's layout, whole tensors.

Knows: what the readers have in common.
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
def damage_refused(path: Path) -> Iterator[None]:
    """Refuse damage that no reader knows of: each names what it does, and files from outside can be damaged otherwise.

    Raises:
        CheckpointError: in place of whatever comes of such a file.
    """
    try:
        yield
    except OSError as err:
        raise unreadable(path, err) from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{path} cannot be used ({type(err).__name__} while reading it): it is damaged, get it "
            f"again, or this machine has too little memory for it"
        ) from None


def unreadable(path: Path, err: OSError) -> CheckpointError:
    """The error for a file or directory that the system does not let be read: why, and what to do."""
    if isinstance(err, FileNotFoundError) and path.is_symlink():
        return CheckpointError(
            f"{path} is a link to {shown(str(path.readlink()))}, where there is nothing; get that "
            f"file, or copy the directory with its links followed (cp -rL)"
        )
    reason = err.strerror or type(err).__name__
    if err.errno in _NO_ACCESS:
        reason += "; let this user read it"
    elif err.errno == errno.ENOENT:
        reason += "; finish the download"
    else:
        reason += "; put a file that can be read in its place"
    return CheckpointError(f"{path} cannot be read: {reason}")


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
            raise unreadable(path, err) from None
        first = names.setdefault((found.st_dev, found.st_ino), path.name)
        if first != path.name:
            raise CheckpointError(
                f"{path} is the same file as {shown(first)}; put in its place the file that belongs there"
            )


def prevailing_dtype(tensors: Iterable[tuple[str, int, torch.dtype | str]], where: str) -> torch.dtype:
    """The dtype that most elements have, out of (name, number of elements, dtype) of each tensor.

    float64 counts as float32, into which :func:`narrowed` turns it. A dtype that torch lacks is given by its name.

    Raises:
        CheckpointError: a tensor has a dtype other than these and the three that a half can have, as quantised ones do.
    """
    elements: Counter[torch.dtype] = Counter()
    for name, count, dtype in tensors:
        dtype = torch.float32 if dtype == torch.float64 else dtype
        if dtype not in DTYPES.values() or isinstance(dtype, str):
            raise CheckpointError(
                f"{where}: {shown(name)} is stored as {shown(str(dtype).removeprefix('torch.'))}; weights are read in "
                f"{', '.join([*DTYPES, 'float64'])}; use a release in one of these, not a quantised one"
            )
        elements[dtype] += count
    return elements.most_common(1)[0][0]


def narrowed(slab: torch.Tensor, name: str, where: str) -> torch.Tensor:
    """A slab in a dtype that a half can have: float64 becomes float32, all others stay as they are.

    Raises:
        CheckpointError: a value that float32 cannot hold.
    """
    if slab.dtype != torch.float64:
        return slab
    cast = slab.float()
    if not torch.equal(cast.isfinite(), slab.isfinite()):
        raise CheckpointError(
            f"{where}: {shown(name)} has values beyond what float32 can hold, into which float64 is "
            f"turned; such a model is not supported"
        )
    return cast


def check_vocabulary(vocabulary: Vocabulary, vocab_size: int, where: str) -> None:
    """Refuse a tokenizer with ids that the embedding table lacks.

    Raises:
        CheckpointError: more tokens than embeddings.
    """
    if vocabulary.n_words > vocab_size:
        raise CheckpointError(
            f"{where}: the tokenizer has {vocabulary.n_words} tokens, the model embeddings for {vocab_size}; "
            "use the tokenizer that belongs to these weights"
        )
