"""A device, as far as most tests need one: a prompt of ids over a link of its own, and the reply.

Knows nothing about: where the half comes from, what kind of cloud answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama.client.link import Link
from llama.edge.generation import EdgeHalf, GeneratedReply, GenerationSettings, generate_reply
from llama.sampling_params import SamplingParams
from llama.tokenizer import Tokenizer
from llama.wire import Open, Request
from tests.support import GREEDY


class Watched(Link):
    """A device's link that tells which run it opened."""

    run_id = b""

    def begin(self, request: Request, hidden: bytes | memoryview | None = None) -> None:
        """As ``Link.begin``."""
        if isinstance(request, Open):
            self.run_id = request.run_id
        super().begin(request, hidden)


def converse(
    address: str,
    edge: EdgeHalf,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    n: int,
    sampling: SamplingParams = GREEDY,
    *,
    stop_ids: Sequence[int] = (),
    deadline_s: float = 60.0,
    waits_when_busy: bool = True,
    on_text: Callable[[str], None] = lambda text: None,
    between_steps: Callable[[], None] = lambda: None,
    restart_deadline_s: float | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> GeneratedReply:
    """One reply of at most ``n`` tokens over a link of its own, as a device gets it."""
    with Link(address, deadline_s=deadline_s, restart_deadline_s=restart_deadline_s, on_notice=on_notice) as link:
        welcome = link.hello()
        link.waits_when_busy = waits_when_busy
        return generate_reply(
            prompt,
            edge=edge,
            link=link,
            welcome=welcome,
            tokenizer=tokenizer,
            settings=GenerationSettings(sampling, stop_ids=stop_ids, max_gen_len=n),
            on_text=on_text,
            between_steps=between_steps,
        )
