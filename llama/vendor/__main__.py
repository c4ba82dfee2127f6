"""``python -m llama.vendor``."""

from __future__ import annotations

from llama import starting

if __name__ == "__main__":
    starting.begin()

from llama.command import run
from llama.vendor.program import main

if __name__ == "__main__":
    run(main)
