"""Cuts a Llama checkpoint in two: the device's half and the cloud's.

The command line and its progress bar; the work itself is in ``llama.checkpoint``.
"""

from __future__ import annotations

from llama import starting

if __name__ == "__main__":
    starting.begin()

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from llama import screen
from llama.checkpoint import splitting
from llama.checkpoint.opening import open_source
from llama.command import run
from llama.dtypes import DTYPES
from llama.errors import UsageError
from llama.process_end import end_if_signalled


def main(
    ckpt_dir: str,
    output_dir: str,
    split_layer: int = 1,
    cloud_model_parallel_size: int = 1,
    dtype: str | None = None,
    rope_scaling_factor: float | None = None,
    chat_format: str | None = None,
) -> None:
    """Split a Llama checkpoint into OUTPUT_DIR/edge and OUTPUT_DIR/cloud.

    Args:
        ckpt_dir: A Meta directory, a Hugging Face directory or a .gguf file.
        output_dir: Directory for the two halves. It must not exist, or be empty. A link is followed.
        split_layer: Number of layers that the device computes, from 1 to one less than the model has.
        cloud_model_parallel_size: Number of ranks (GPUs) that the cloud half is cut for.
        dtype: Data type of the halves, float32, bfloat16 or float16. By default the source's, and float32 for GGUF.
        rope_scaling_factor: Factor of Llama 3.1's scaled rotary embedding, for Meta directories whose params.json does
            not have it. By default the source's.
        chat_format: Chat format of the halves, template, llama3 or chatml. With llama3, dialogues are as in Meta's
            code, without dates and without an automatic system message. By default the checkpoint's own template, if
            it has one.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)} (got {dtype})")
    started = time.monotonic()
    splitting.check_output(Path(output_dir), Path(ckpt_dir))
    source = open_source(Path(ckpt_dir), rope_scaling_factor, chat_format)
    _say(f"{ckpt_dir}: {source.description}, {source.args.n_layers} layers")
    with _progress_bar() as progress:
        fingerprint = splitting.split(
            source,
            Path(output_dir),
            split_layer=split_layer,
            cloud_model_parallel_size=cloud_model_parallel_size,
            dtype=None if dtype is None else DTYPES[dtype],
            progress=progress,
        )
    _say(
        f"{output_dir}: edge has layers 0-{split_layer - 1}, cloud {split_layer}-{source.args.n_layers - 1}; verified; "
        f"fingerprint {fingerprint.hex()[:16]}; {time.monotonic() - started:.1f} s"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress_bar() -> Iterator[splitting.Progress]:
    """A bar per stage on a terminal; elsewhere a line when a stage begins."""
    console = screen.console(sys.stderr)
    bars = screen.has_bars(console)
    stages: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not bars) as bar:

        def show(stage: str, done: int, total: int) -> None:
            end_if_signalled()
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
                if not bars:
                    _say(f"{stage} ({total / 1e6:.0f} MB)")
            bar.update(stages[stage], completed=done)

        yield show


if __name__ == "__main__":
    run(main)
