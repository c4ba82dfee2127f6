"""The sentences that a person reads about a run, wherever they read them: consent, offers, copies, endings, the cloud.

Knows: what each thing is. Does not know: screens, escape sequences, JSON. Control characters are the screen's concern,
except in what is one line by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llama.edge.consent import RAW, consents_of, disclosure_levels
from llama.edge.generation import GeneratedReply, Timing
from llama.errors import ProfileError
from llama.privacy.policy import SEES, DataKind, FieldPolicy, Party, field_of
from llama.privacy.profile import Profile
from llama.privacy.sanitiser import Mode
from llama.prompt import SourcedPrompt
from llama.sheets import Sheet
from llama.text.money import rupiah
from llama.text.printable import printable
from llama.wire import DeliveryStatus, Offer

# ---- before a run

SANITISE_OFF = (
    "warning: --sanitise off: your words and fields leave this device as they are; whoever receives them can read them"
)
OWN_WORDS = "your own words"  # the title of a prompt that is no sheet
DECLINED = "declined; nothing was sent"


def caution(text: str) -> str:
    """Ask the person to look at something before it leaves."""
    return f"look again: {text}"


def missing_fields(names: Iterable[str]) -> str:
    """Say what the sheet asks for in vain."""
    return f"the sheet asks for {', '.join(names)}, which your profile does not have"


def profile_needed(names: Iterable[str]) -> str:
    """Say that the sheet asks for fields, and no profile was given."""
    return f"the sheet asks for {', '.join(names)}; give your profile with --profile_file"


def dry_run(tokens: int, prompt_id: str) -> str:
    """Say what a run would send besides the text that was shown."""
    return (
        f"nothing was sent; a run sends the rows of these {tokens} tokens and of the "
        f"reply's, the prompt id '{prompt_id}', and the sampling settings"
    )


def known_here_only(tags: Mapping[str, str]) -> str:
    """Say what the tags of a prompt stand for."""
    return f"known here only: {legend(tags)}"


# ---- consent


def agreed_before(profile_file: str) -> str:
    """Say why nothing is asked."""
    return f"you have agreed to this before; delete {consents_of(profile_file)} to be asked again"


def nobody_to_agree(names: Iterable[str]) -> str:
    """Say that nobody could be asked, and what to do."""
    return (
        f"the sheet asks for {', '.join(names)}, and nobody is here to agree; run it in a terminal, or agree with --yes"
    )


def asked_again(problem: ProfileError) -> str:
    """Say that an agreement holds for this run only."""
    return f"{problem}, so you will be asked again"


def question(sourced: SourcedPrompt, profile: Profile, mode: Mode, profile_file: str = "") -> str:
    """Write what the person is asked."""
    assert isinstance(sourced.prompt, Sheet)
    width = max(map(len, sourced.prompt.asks_for))
    fields = [f"  {name:{width}}  {level}" for name, level in levels(sourced.prompt, profile, mode).items()]
    return "\n".join([heading(sourced), *fields, *notes(sourced, mode, profile_file), "Agree?"])


def heading(sourced: SourcedPrompt) -> str:
    """Say who asks."""
    sheet = sourced.prompt
    assert isinstance(sheet, Sheet)
    name = sheet.title or sourced.prompt_id or "This sheet"
    return f"{name} (from {origin(sourced)}, to {sheet.task}) asks for:"


def levels(sheet: Sheet, profile: Profile, mode: Mode) -> dict[str, str]:
    """Say of each field that is asked for in which form it would leave."""
    by_name = disclosure_levels(sheet, profile, mode)
    return {name: _level(name, by_name.get(name)) for name in sheet.asks_for}


def notes(sourced: SourcedPrompt, mode: Mode, profile_file: str = "") -> list[str]:
    """Say who gets what, besides, and where the answer is remembered, if it is."""
    lines = ["The provider can read all that is sent, and the reply, which may quote it."]
    if sourced.party:
        tags = "" if mode == "off" else ": tags stay tags"
        lines.append(
            f"The third party {sourced.party} gets the reply, as the model writes it{tags}, "
            f"and which of its own products fit."
        )
    if profile_file:
        lines.append(f"To agree is remembered in {consents_of(profile_file)}; delete that to be asked again.")
    return lines


def origin(sourced: SourcedPrompt) -> str:
    """Say whose sheet it is: ``the provider``, ``the third party insurer``, or the file."""
    if sourced.party:
        return f"the third party {sourced.party}"
    is_file = sourced.origin.startswith("file:")
    return sourced.origin.replace("file:", "the file ", 1) if is_file else "the provider"


def _level(name: str, level: str | None) -> str:
    if level is None:
        return "not in your profile"
    words = {
        FieldPolicy.SECRET: f"as a tag, [{field_of(name).tag}_n]; the value stays here",
        FieldPolicy.QUASI: f"made coarser ({field_of(name).generaliser})",
        FieldPolicy.OPEN: f"as you wrote it, with tags for what is recognised as secret in it{_warning(name)}",
    }
    return "just as it is, since --sanitise is off" if level == RAW else words[FieldPolicy(level)]


def _warning(name: str) -> str:
    """Give the law's word for a field that the person has opened."""
    return " (specific personal data, UU PDP article 4)" if field_of(name).specific else ""


# ---- the cloud


def looking_for_cloud(address: str) -> str:
    """Say that the cloud was not met yet."""
    return f"looking for the cloud at {address}"


def cloud_is_here(address: str) -> str:
    """Say that the cloud answers."""
    return f"the cloud at {address} is here"


# ---- after a run


def legend(tags: Mapping[str, str]) -> str:
    """Say what each tag stands for; for the person's own screen."""
    return printable(" · ".join(f"{tag} {' '.join(value.split())}" for tag, value in tags.items()))


def offer_line(offer: Offer) -> str:
    """Write an offer in one line: title, vendor, price."""
    return printable(f"{offer.title} ({offer.vendor}, {rupiah(offer.price)})").replace("\n", " ")


def copy_status(copy: DeliveryStatus, vendor: str) -> str:
    """Say what became of the vendor's copy; empty where no vendor takes part."""
    if not vendor:
        return ""
    return {
        DeliveryStatus.NONE: (
            f"no copy is kept for {vendor}: the reply is empty, or the cloud knows no such sheet of {vendor}'s"
        ),
        DeliveryStatus.QUEUED: f"{vendor} can collect the reply, with tags, and its own offers",
        DeliveryStatus.WITHHELD: (
            f"withheld from {vendor}, which is told only why: the reply quotes the provider's system prompt"
        ),
        DeliveryStatus.FAILED: f"the cloud could not write down {vendor}'s copy, so {vendor} gets none",
    }[copy]


def not_held(kind: DataKind, party: Party, vendor: str, *, raw: bool) -> str:
    """Say in a word why a party has nothing of a kind; ``raw``: of a run that was not sanitised."""
    if kind is DataKind.PROFILE and party is Party.PROVIDER and raw:
        return "what the prompt says of it, raw: --sanitise was off"
    if party is Party.VENDOR and not vendor:
        return "(none took part)"
    return "(not delivered)" if SEES[kind][party].holds else SEES[kind][party].says


def ending(reply: GeneratedReply, max_seq_len: int) -> str | None:
    """Say why a reply stops where it does; None where the model has ended it."""
    if reply.stop_reason == "max_gen_len":
        return f"cut off after {len(reply.tokens)} tokens, as the sheet or --max_gen_len says"
    if reply.stop_reason == "max_seq_len" and len(reply.tokens) > len(reply.prompt_tokens):
        return (
            f"cut off: the reply fills the context of {max_seq_len} tokens; give --max_gen_len for a shorter one, or a "
            f"lower --temperature if it wanders"
        )
    if reply.stop_reason == "max_seq_len":
        return (
            f"cut off: prompt and reply fill the context of {max_seq_len} tokens; shorten the prompt, or start the "
            f"cloud with a larger --max_seq_len"
        )
    return None


def tags_left(count: int) -> str:
    """Say that texts of a tag's shape stay in the reply."""
    return (
        f"tags left as they are in the reply: {count}; this run has not issued them, or they "
        f"stand in a link, markup or code"
    )


def counts(timing: Timing) -> str:
    """Write tokens and seconds of a run, as the table of who saw what shows them."""
    return f"{timing.prompt_tokens} + {timing.reply_tokens} tokens, {timing.total_s:.1f} s"


def timing_line(timing: Timing) -> str:
    """Write prompt, speed, time to first token, and per token the milliseconds and bytes of each machine."""
    line = f"{timing.prompt_tokens} prompt tokens, first token after {timing.time_to_first_token_s:.2f} s"
    if timing.tokens_per_s is None:
        return line
    return (
        f"{line}; {timing.reply_tokens} tokens at {timing.tokens_per_s:.1f} tokens/s; per token: "
        f"device {timing.device_ms_per_token:.1f} ms, network {timing.network_ms_per_token:.1f} ms, "
        f"cloud {timing.cloud_ms_per_token:.1f} ms, {timing.sent_bytes_per_token:.0f} bytes out, "
        f"{timing.received_bytes_per_token:.0f} in"
    )
