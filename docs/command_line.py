"""Writes ``docs/command-line.md`` from the signatures and docstrings of the programs: ``make docs``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import cloud_main
import edge_main
import split_checkpoint
from llama import keys, status
from llama.cloud import backup, importing, restore
from llama.command import Flag, flags_of, summary_of, usage_line
from llama.vendor import program as vendor

PAGE = ROOT / "docs" / "command-line.md"

PROGRAMS: list[tuple[str, Callable[..., None], str]] = [  # how python starts it, its main, its required words
    ("split_checkpoint.py", split_checkpoint.main, ""),
    ("cloud_main.py", cloud_main.main, ""),
    ("edge_main.py", edge_main.main, ""),
    ("-m llama.keys", keys.main, keys.USAGE),
    ("-m llama.vendor", vendor.main, ""),
    ("-m llama.status", status.main, ""),
    ("-m llama.cloud.importing", importing.main, ""),
    ("-m llama.cloud.backup", backup.main, ""),
    ("-m llama.cloud.restore", restore.main, ""),
]

INTRODUCTION = """\
# Command line

This page is generated from the programs. To change it, change the docstring of a program's `main`, and run `make docs`.

- A value follows its flag as `--flag value` or `--flag=value`. It may begin with a minus sign. A value that begins with
  two must follow an equals sign.
- A flag's name may have dashes in place of underscores: `--ckpt-dir` is `--ckpt_dir`. No flag may be shortened.
- A switch is on as `--flag` or `--flag true`, and off as `--noflag`, `--no-flag` or `--flag=false`.
- A flag may be given once.
- The program does nothing before every flag is known and has a value of its type. `--help` lists the flags.

| exit code | meaning |
|---|---|
| 0 | The program has done its work. The cloud: a signal stopped it while it served. |
| 1 | An error. One line on stderr says what is wrong and what to do. |
| 2 | The command line is wrong. One line on stderr says why. The program has done nothing. |
| 3 | The process has reached its memory ceiling (`--max_memory_gb`). |
| 129, 130, 143 | SIGHUP, Ctrl-C or SIGTERM has stopped the program. |
"""


def page() -> str:
    """Return the page as it must be now."""
    return "\n".join([INTRODUCTION, *(_section(*each) for each in PROGRAMS)])


def _section(program: str, main: Callable[..., None], usage: str) -> str:
    rows = "".join(f"| {' | '.join(_row(flag))} |\n" for flag in flags_of(main))
    return (
        f"## `{program.removeprefix('-m ')}`\n\n{summary_of(main)}\n\n"
        f"```text\n{usage_line(main, program, usage)}\n```\n\n"
        f"| flag | type | default | what it does |\n|---|---|---|---|\n{rows}"
    )


def _row(flag: Flag) -> list[str]:
    default = f"`{flag.default_text}`" if flag.default_text else ""
    return [f"`--{flag.name}`", flag.kind, "required" if flag.required else default, flag.about.replace("|", "\\|")]


if __name__ == "__main__":
    PAGE.write_text(page())
