"""The shared prefix of a prompt: the messages before a sheet's question, which are the same for every person.

They contain only words of the provider or a third party. Device and cloud both know them from the sheet. So the cloud
can compute its layers for them before any request. The device names them by a digest (``llama.wire``) and sends only
the rows that follow.

Knows: sheets. Does not know: the person's words, tokens, the model.
"""

from __future__ import annotations

from llama.chat import Message
from llama.sheets import Sheet

# The provider's introduction to the text that follows. The channel stamps the party's name.
WRAPPING = {
    "en": "The questions come from a partner, {party}. What the partner says about the task:",
    "id": "Pertanyaannya dari mitra, {party}. Kata mitra tentang tugasnya:",
}


def instructions(sheet: Sheet, *, party: str = "", provider_system: str = "") -> list[Message]:
    """Return the messages of a sheet's dialogue before its question: instructions to the model, and examples.

    Args:
        sheet: the sheet that asks.
        party: the third party of the sheet, as the channel states it; empty for the provider's own.
        provider_system: the provider's system prompt, in which a third party's sheet is wrapped.
    """
    system = sheet.system or provider_system
    if party:
        own = [WRAPPING[sheet.language].format(party=party), sheet.system] if sheet.system else []
        system = "\n\n".join(part for part in (provider_system, *own) if part)
    messages = [Message("system", system)] if system else []
    for user, assistant in sheet.examples:
        messages += [Message("user", user), Message("assistant", assistant)]
    return messages
