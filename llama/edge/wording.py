"""The sentences about a run that every screen shows to the person: consent, offers, copies, endings, the cloud.

The screens remove control characters. Only texts that must be one line remove them here.

Knows: the meaning of each value. Does not know: screens, escape sequences, JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llama.edge.consent import RAW, consents_of, disclosure_levels
from llama.edge.generation import GeneratedReply, Timing
from llama.edge.history import HistoryEntry, Outcome
from llama.errors import ProfileError
from llama.privacy.policy import SEES, DataKind, FieldPolicy, Party, field_of
from llama.privacy.profile import PRIVATE_WORDS, Profile
from llama.privacy.review import LooksPersonal, MarkKind
from llama.privacy.sanitiser import Mode
from llama.prompt import SourcedPrompt
from llama.sheets import Sheet
from llama.text.money import rupiah
from llama.text.printable import printable
from llama.wire import DeliveryStatus, Offer

# ---- before a run

SANITISE_OFF = (
    "warning: --sanitise off: your words and fields leave this device unchanged, and all who receive them can read them"
)
OWN_WORDS = "your own words"  # the title of a prompt that is not a sheet
DECLINED = "you declined; nothing was sent"


def caution(text: str) -> str:
    """Return a warning about a text that is about to leave."""
    return f"look again: {text}"


def missing_fields(names: Iterable[str]) -> str:
    """Return a notice of the fields that the sheet asks for and the profile lacks."""
    return f"the sheet asks for fields that your profile does not have: {', '.join(names)}"


def profile_needed(names: Iterable[str]) -> str:
    """Return the error that the sheet asks for fields but the run has no profile."""
    return f"the sheet asks for {', '.join(names)}; give your profile with --profile_file"


def dry_run(tokens: int, prompt_id: str) -> str:
    """Return what a run would send for the text that was shown."""
    return (
        f"nothing was sent; a run sends the hidden states of these {tokens} tokens and of the "
        f"reply, the prompt id '{prompt_id}', and the sampling settings"
    )


def known_here_only(tags: Mapping[str, str]) -> str:
    """Return the meaning of a prompt's tags."""
    return f"known here only: {legend(tags)}"


MARKS = {
    MarkKind.TAG: "A tag: the value stays here.",
    MarkKind.OPEN: "Underlined: your profile declares it open, so it leaves as you wrote it.",
    MarkKind.STAYS: "Highlighted: it looks personal, and would leave as it is.",
}
STAYS = "looks personal and would leave as it is"
MOST_LISTED = 40  # words in a question to the person


def stays_line(stays: Sequence[LooksPersonal]) -> str:
    """Return the words that look personal and would leave, in one line."""
    return f"{STAYS}: {printable(' · '.join(map(_looks_personal, stays)))}"


def stays_count(count: int) -> str:
    """Return how many words look personal and would leave, where no person can answer."""
    return f"{count} of your words or numbers may be personal and leave as written; see them with --dry_run"


def _looks_personal(each: LooksPersonal) -> str:
    times = "" if each.count == 1 else f", {each.count} times"
    return f"{' '.join(each.text.split())} ({each.reason}{times})"


def last_look(
    stays: Sequence[LooksPersonal], profile_file: str | None, *, can_undo: bool = False, may_send: bool = True
) -> str:
    """Return the question about words that look personal: what they are, and what the person can type.

    Args:
        stays: the words.
        profile_file: the person's profile, if there is one, to which a word can be added.
        can_undo: the person has hidden a word in this run.
        may_send: the prompt may leave with these words.
    """
    more = [f"      and {len(stays) - MOST_LISTED} more, highlighted above"] if len(stays) > MOST_LISTED else []
    always = "p 1, or p WORD" if stays else "p WORD"
    choices = [
        (bool(stays), "1, or 1 2" if len(stays) > 1 else "1", "hide it in this run"),
        (True, "WORD", "hide another word of yours, as it is written above"),
        (profile_file is not None, always, f"hide it always: this adds it to {profile_file}"),
        (can_undo, "u", "show again what you hid last in this run"),
        (may_send, "y", "send the prompt, with these words in it" if stays else "send the prompt"),
        (True, "n", "send nothing, and end"),
    ]
    return "\n".join(
        [
            "These look personal, and would leave as they are:" if stays else "Nothing else looks personal.",
            *(f"  {i:2}  {printable(_looks_personal(each))}" for i, each in enumerate(stays[:MOST_LISTED], start=1)),
            *more,
            "You can type:",
            *(f"  {typed:14}  {printable(does)}" for is_offered, typed, does in choices if is_offered),
            "Your choice: ",
        ]
    )


def hidden(words: Sequence[str], profile_file: str | None) -> str:
    """Return that words are hidden: in this run, or always if they were added to a profile."""
    listed = ", ".join(f"“{' '.join(word.split())}”" for word in words)
    verb = "are" if len(words) > 1 else "is"
    if profile_file is None:
        return f"{listed} {verb} hidden in this run"
    return f"{listed} {verb} hidden from now on: {PRIVATE_WORDS} in {profile_file}"


def not_in_prompt(word: str) -> str:
    """Return that a typed answer is neither a number of the list nor a word of the person's."""
    return f"“{word}” is not in your words of this prompt; type one of the choices, or a word as it is written above"


NO_PROFILE = "there is no profile to add a word to; start with --profile_file, or hide it in this run only"


# ---- consent


def agreed_before(profile_file: str) -> str:
    """Return the reason for asking no question."""
    return f"you agreed to this before; to be asked again, delete {consents_of(profile_file)}"


def nobody_to_agree(names: Iterable[str]) -> str:
    """Return the error that no terminal is there to ask the person, and the cure."""
    return f"the sheet asks for {', '.join(names)}. Run this in a terminal to agree, or add --yes."


def asked_again(problem: ProfileError) -> str:
    """Return a notice that an agreement holds for this run only."""
    return f"{problem}; you will be asked again next time"


def question(sourced: SourcedPrompt, profile: Profile, mode: Mode, profile_file: str = "") -> str:
    """Return the question to the person: heading, fields, notes."""
    assert isinstance(sourced.prompt, Sheet)
    width = max(map(len, sourced.prompt.asks_for))
    fields = [f"  {name:{width}}  {level}" for name, level in levels(sourced.prompt, profile, mode).items()]
    return "\n".join([heading(sourced), *fields, *notes(sourced, mode, profile_file), "Agree?"])


def heading(sourced: SourcedPrompt) -> str:
    """Return the first line of the question: the sheet, its origin and its task."""
    sheet = sourced.prompt
    assert isinstance(sheet, Sheet)
    name = sheet.title or sourced.prompt_id or "This sheet"
    return f"{name} (from {origin(sourced)}, to {sheet.task}) asks for:"


def levels(sheet: Sheet, profile: Profile, mode: Mode) -> dict[str, str]:
    """Return, for each field that the sheet asks for, the form in which it would leave."""
    by_name = disclosure_levels(sheet, profile, mode)
    return {name: _level(name, by_name.get(name)) for name in sheet.asks_for}


def notes(sourced: SourcedPrompt, mode: Mode, profile_file: str = "") -> list[str]:
    """Return what else the provider and the third party get, and which file remembers the answer, if any."""
    lines = ["The provider can read everything you send, and the reply, which may quote it."]
    if sourced.party:
        tags = "" if mode == "off" else " (tags stay tags)"
        lines.append(
            f"The third party {sourced.party} gets the reply as the model writes it{tags}, "
            f"and a list of its own products that fit."
        )
    if profile_file:
        lines.append(f"If you agree, {consents_of(profile_file)} remembers it. Delete that file to be asked again.")
    return lines


def origin(sourced: SourcedPrompt) -> str:
    """Return the owner of the sheet: ``the provider``, ``the third party insurer``, or the file."""
    return owner(sourced.origin, sourced.party)


def owner(channel: str, party: str) -> str:
    """Return the owner of the sheet that came through a channel, likewise."""
    if party:
        return f"the third party {party}"
    return channel.replace("file:", "the file ", 1) if channel.startswith("file:") else "the provider"


def _level(name: str, level: str | None) -> str:
    if level is None:
        return "not in your profile"
    words = {
        FieldPolicy.SECRET: f"as a tag, [{field_of(name).tag}_n]; the value stays here",
        FieldPolicy.QUASI: f"made coarser ({field_of(name).generaliser})",
        FieldPolicy.OPEN: f"as you wrote it, with tags for the secrets that are recognised in it{_warning(name)}",
    }
    return "unchanged, because --sanitise is off" if level == RAW else words[FieldPolicy(level)]


def _warning(name: str) -> str:
    """Return the law's name for a field that the person has opened."""
    return " (specific personal data, UU PDP article 4)" if field_of(name).specific else ""


# ---- the cloud


def looking_for_cloud(address: str) -> str:
    """Return the state in which the cloud has not answered yet."""
    return f"looking for the cloud at {address}"


def cloud_is_here(address: str) -> str:
    """Return the state in which the cloud answers."""
    return f"connected to the cloud at {address}"


# ---- after a run

_OUTCOMES = {
    Outcome.BEGUN: "not known: the program ended before the run did, or it is under way",
    Outcome.FINISHED: "with the whole reply",
    Outcome.ENDED_EARLY: "early: it was stopped or it failed, and the cloud never finished it",
    Outcome.UNCONFIRMED: "without the cloud's answer: the reply was complete, and the cloud may have handed it on",
}


def legend(tags: Mapping[str, str]) -> str:
    """Return the meaning of each tag, in one line, for the person's own screen."""
    return printable(" · ".join(f"{tag} {' '.join(value.split())}" for tag, value in tags.items()))


def offer_line(offer: Offer) -> str:
    """Return an offer in one line: title, vendor, price."""
    return printable(f"{offer.title} ({offer.vendor}, {rupiah(offer.price)})").replace("\n", " ")


def copy_status(copy: DeliveryStatus, vendor: str) -> str:
    """Return the state of the vendor's copy, or an empty text if no vendor takes part."""
    if not vendor:
        return ""
    return {
        DeliveryStatus.NONE: (
            f"no copy is kept for {vendor}: the reply is empty, or the cloud does not have this sheet of {vendor}"
        ),
        DeliveryStatus.QUEUED: f"{vendor} can collect the reply, with tags, and its own offers",
        DeliveryStatus.WITHHELD: (
            f"withheld from {vendor}, which learns only the reason: the reply quotes the provider's system prompt"
        ),
        DeliveryStatus.FAILED: f"the cloud could not store the copy for {vendor}, so {vendor} gets none",
    }[copy]


def history_title(entry: HistoryEntry) -> str:
    """Return the title of a run of the history: the sheet's, or that it was the person's own words."""
    return OWN_WORDS if entry.own_words else entry.title or entry.prompt_id or "a sheet without a title"


def history_lines(entry: HistoryEntry) -> list[tuple[str, str]]:
    """Return what a history says of a run, each line with its heading. Lines that do not apply are left out."""
    copy = copy_outcome(entry.copy, entry.third_party, forgotten=bool(entry.forgotten_at), collected=entry.collected)
    lines = [
        ("whose sheet", "" if entry.own_words else owner(entry.origin, entry.third_party)),
        ("cloud", entry.cloud),
        ("fields sent", sent_forms(entry.fields)),
        ("tags sent", " ".join(entry.tags)),
        ("ended", _OUTCOMES[entry.outcome]),
        ("reply", entry.reply),
        ("offers", "\n".join(map(offer_line, entry.offers))),
        ("third party", copy if entry.outcome is Outcome.FINISHED else ""),
        ("forgotten", f"{entry.forgotten_at}: {forgotten(entry.collected)}" if entry.forgotten_at else ""),
        ("run id", entry.run_id),
    ]
    return [(head, text) for head, text in lines if text]


def sent_forms(fields: Mapping[str, str]) -> str:
    """Return the fields that were sent, each with its form, in one line."""
    return ", ".join(f"{name} ({form})" for name, form in fields.items()) or "none"


def forgotten(collected: bool) -> str:
    """Return what came of a request to forget a run."""
    if collected:
        return (
            "the cloud has deleted its record of this run; the third party had already collected its copy, which is "
            "beyond the cloud's reach: ask the third party to delete it"
        )
    return "the cloud has deleted its record of this run; no third party had collected a copy"


def copy_outcome(copy: str, third_party: str, *, forgotten: bool, collected: bool) -> str:
    """Return what became of the third party's copy of a run of the history."""
    if not third_party:
        return ""
    if forgotten:
        return (
            f"{third_party} had collected its copy, which is beyond the cloud's reach"
            if collected
            else f"deleted before {third_party} collected it"
        )
    return copy_status(DeliveryStatus(copy), third_party)


def not_held(kind: DataKind, party: Party, vendor: str, *, raw: bool) -> str:
    """Return in a few words why a party has nothing of a kind. ``raw``: the run was not sanitised."""
    if kind is DataKind.PROFILE and party is Party.PROVIDER and raw:
        return "the parts in the prompt, raw: --sanitise was off"
    if party is Party.VENDOR and not vendor:
        return "(none took part)"
    return "(not delivered)" if SEES[kind][party].holds else SEES[kind][party].says


def ending(reply: GeneratedReply, max_seq_len: int) -> str | None:
    """Return why a reply was cut off, or None if the model ended it."""
    if reply.stop_reason == "max_gen_len":
        return f"cut off after {len(reply.tokens)} tokens: the limit of the sheet or of --max_gen_len"
    if reply.stop_reason == "max_seq_len" and len(reply.tokens) > len(reply.prompt_tokens):
        return (
            f"cut off: the reply fills the context of {max_seq_len} tokens; limit it with --max_gen_len, or lower "
            f"--temperature if it rambles"
        )
    if reply.stop_reason == "max_seq_len":
        return (
            f"cut off: prompt and reply fill the context of {max_seq_len} tokens; shorten the prompt, or start the "
            f"cloud with a larger --max_seq_len"
        )
    return None


def tags_left(count: int) -> str:
    """Return a notice that texts in the shape of a tag stay in the reply."""
    return f"tags left in the reply: {count}; this run did not issue them, or they are in a link, markup or code"


def counts(timing: Timing) -> str:
    """Return the tokens and seconds of a run, for the table of who saw what."""
    return f"{timing.prompt_tokens} + {timing.reply_tokens} tokens, {timing.total_s:.1f} s"


def timing_line(timing: Timing) -> str:
    """Return prompt tokens, time to first token, speed, and per token the milliseconds and bytes of each machine."""
    line = f"{timing.prompt_tokens} prompt tokens, first token after {timing.time_to_first_token_s:.2f} s"
    if timing.tokens_per_s is None:
        return line
    return (
        f"{line}; {timing.reply_tokens} tokens at {timing.tokens_per_s:.1f} tokens/s; per token: "
        f"device {timing.device_ms_per_token:.1f} ms, network {timing.network_ms_per_token:.1f} ms, "
        f"cloud {timing.cloud_ms_per_token:.1f} ms, {timing.sent_bytes_per_token:.0f} bytes out, "
        f"{timing.received_bytes_per_token:.0f} in"
    )
