"""What a prompt begins with, where everybody's begins so: the messages before a sheet's question.

They are the provider's or a third party's words alone, and so the same for every person who is asked. Device and cloud
both know them from the sheet; so the cloud can have computed its layers for them before anybody asks, and the device,
which names them by a digest (``llama.wire``), sends only the rows that follow.

Knows: sheets. Does not know: anybody's words, tokens, the model.
"""

from __future__ import annotations

from llama.chat import Message
from llama.sheets import Sheet

# What the provider's prompt says of what follows; the party's name is stamped by the channel.
WRAPPING = {
    "en": "The questions come from a partner, {party}. What the partner says about the task:",
    "id": "Pertanyaannya dari mitra, {party}. Kata mitra tentang tugasnya:",
}


def instructions(sheet: Sheet, *, party: str = "", provider_system: str = "") -> list[Message]:
    """The messages of a sheet's dialogue before its question: what the model is told, and examples.

    Args:
        sheet: what is asked.
        party: the third party whose sheet it is, as the channel says; empty for the provider's own.
        provider_system: the provider's system prompt, which a third party's sheet is wrapped in.
    """
    system = sheet.system or provider_system
    if party:
        own = [WRAPPING[sheet.language].format(party=party), sheet.system] if sheet.system else []
        system = "\n\n".join(part for part in (provider_system, *own) if part)
    messages = [Message("system", system)] if system else []
    for user, assistant in sheet.examples:
        messages += [Message("user", user), Message("assistant", assistant)]
    return messages
