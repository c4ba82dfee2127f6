"""Opens checkpoints one after the other, and reads all of their tensors; says what each came to. It can be killed.

Each line of standard input is a JSON object, ``{"path": …, "half": …}``; each gets a line: what was said, or null if it
was opened; seconds by the clock and of computing; MiB of memory at the most, beyond what there was before
(of this process: that of a template has a limit of its own).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from llama.checkpoint import layout
from llama.checkpoint.halves import chat_format_of, read_half, tokenizer_of
from llama.checkpoint.opening import open_source
from llama.errors import CheckpointError, TokenizerError

SPARE_BYTES = 4 << 30  # of addresses; far more than is allowed, far less than would stop the machine


def opened(path: Path, half: bool) -> str | None:
    """What the path was refused with, if it was."""
    try:
        if half:
            found = read_half(path, "edge")
            chat_format_of(found, tokenizer_of(found))
        else:
            source = open_source(path)
            for name in layout.tensor_shapes(source.args):
                for _ in source.rows(layout.EMBEDDINGS if source.tied and name == layout.OUTPUT else name):
                    pass
    except (CheckpointError, TokenizerError) as err:
        return str(err)
    except BaseException as err:
        return f"NOT REFUSED IN WORDS: {type(err).__name__}: {err}"
    return None


def memory(what: str) -> float:
    """MiB, by the kernel's name for it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) / 1024


def computed() -> float:
    """Seconds of computing, of ended children too."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def tried(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one line."""
    Path("/proc/self/clear_refs").write_text("5")  # the most so far counts from here
    before, at, computed_before = memory("VmRSS"), time.monotonic(), computed()
    said = opened(Path(request["path"]), request["half"])
    seconds = time.monotonic() - at
    return {"said": said, "seconds": seconds, "computed": computed() - computed_before,
            "mib": memory("VmHWM") - before}  # fmt: skip


def main() -> None:
    """Until the end of standard input."""
    addresses = int(memory("VmSize")) << 20
    resource.setrlimit(resource.RLIMIT_AS, (addresses + SPARE_BYTES, addresses + SPARE_BYTES))
    for line in sys.stdin:
        print(json.dumps(tried(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
