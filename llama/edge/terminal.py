"""What the person sees: the reply as it streams, and one line that answers "why is it slow".

The reply goes to stdout; everything else goes to stderr, so that stdout can be piped.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import msgspec

from llama.generation import Reply, Timing

# Control characters in a reply could move the cursor or rewrite what the terminal shows; only these two mean text.
_UNPRINTABLE = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Terminal:
    """The two streams; knows whether the reply, on a screen that shows both, has stopped in the middle of a line."""

    def __init__(self) -> None:
        self._in_a_line = False

    def show_text(self, text: str) -> None:
        """A piece of the reply, at once, without control and escape characters."""
        _write(text.translate(_UNPRINTABLE))
        if text:
            self._in_a_line = not text.endswith("\n")

    def notice(self, text: str) -> None:
        """A line for the person, on stderr."""
        if self._in_a_line and sys.stdout.isatty() and sys.stderr.isatty():
            text = "\n" + text
            self._in_a_line = False
        print(text, file=sys.stderr, flush=True)


def ending(reply: Reply, max_seq_len: int) -> str | None:
    """Why a reply stops where it does, or None where the model has ended it."""
    if reply.stop_reason == "max_gen_len":
        return f"cut off after {len(reply.tokens)} tokens, as --max_gen_len says"
    if reply.stop_reason == "max_seq_len":
        return (
            f"cut off: prompt and reply fill the context of {max_seq_len} tokens; shorten the prompt, or start the "
            f"cloud with a larger --max_seq_len"
        )
    return None


def timing_line(timing: Timing) -> str:
    """Prompt, speed, time to first token, and per token the milliseconds and bytes of each place."""
    line = f"{timing.prompt_tokens} prompt tokens, first token after {timing.time_to_first_token_s:.2f} s"
    if timing.tokens_per_s is None:
        return line
    return (
        f"{line}; {timing.reply_tokens} tokens at {timing.tokens_per_s:.1f} tokens/s; per token: "
        f"device {timing.device_ms_per_token:.1f} ms, network {timing.network_ms_per_token:.1f} ms, "
        f"cloud {timing.cloud_ms_per_token:.1f} ms, {timing.sent_bytes_per_token:.0f} bytes out, "
        f"{timing.received_bytes_per_token:.0f} in"
    )


def show_json(reply: Reply) -> None:
    """The whole reply as one JSON object on stdout."""
    fields: dict[str, Any] = {
        "text": reply.text,
        "tokens": reply.tokens,
        "prompt_tokens": reply.prompt_tokens,
        "stop_reason": reply.stop_reason,
        "timing": asdict(reply.timing),
    }
    _write(msgspec.json.encode(fields).decode() + "\n")


def _write(text: str) -> None:
    """UTF-8 on stdout, at once, whatever the locale says: a reply may hold any character."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
