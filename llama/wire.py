"""THE CONTRACT: every message that crosses the network, byte by byte.

``docs/protocol.md`` explains it for authors of other devices; its tables are made from the docstrings below
(``make docs``). Any ZeroMQ REQ client, in any language, that follows it can be a device, a vendor's program that
publishes sheets and collects deliveries, or an operator's program that reads the cloud's status.

**Transport.** The client has a REQ socket. The cloud binds a ROUTER, which REQ peers see as a REP. Each request has one
reply. A message is one or two frames::

    [header]            all but Step
    [header, rows]      Step

``header`` is a MessagePack map. It has the key ``type`` (the class name below in lower case) and all fields of that
class, and no others. Fields with a default may be omitted. ``bytes`` fields are MessagePack *bin*, never *str*. A
header is at most 1 MiB. A given cloud accepts no header longer than its longest honest request
(:class:`RequestDecoder`).

``rows`` is the raw buffer of the hidden states: ``rows × dim`` numbers of ``dtype``, little-endian, row after row,
without padding. ``Welcome`` gives dtype and width.

**A run.** Hello → Welcome; Open → Opened; Step → Tokens, many times; Finish → Final; Close → Closed. The cloud may
answer any request with Error instead. Connections carry no state: a request may arrive on a fresh socket at any time.

===========  ===========================================================  ==========================================
request      purpose                                                      reply
===========  ===========================================================  ==========================================
Hello        ask for the cloud's parameters                               Welcome
Open         ask for a slot for one run; idempotent by ``run_id``         Opened, with the session
Step         compute rows from ``position`` on; return the next ids of    Tokens
             the last ``want`` rows
Finish       state that outputs ``0 … end-1`` are the reply               Final: the reply's text and its offers
Close        close the session and free its slot                          Closed
ListSheets   list the prompt sheets                                       Sheets
FetchSheet   fetch one sheet                                              SheetText
Collect      fetch a third party's unacknowledged deliveries              Deliveries
Acknowledge  confirm deliveries, so that the cloud erases them            Acknowledged
Publish      add or replace a third party's sheet                         Published, with its prompt id
Withdraw     remove a third party's sheet                                 Withdrawn
Forget       delete a finished run's record and its uncollected copy      Forgotten
Status       read the cloud's status                                      StatusReport
===========  ===========================================================  ==========================================

ListSheets and all requests below it need no session and may be repeated. A repeated Withdraw finds no such sheet and
gets ``unknown_sheet``.

**A delivery** is a third party's copy of a run of its sheet. Collect returns it again and again until it is
acknowledged; ``run_id`` identifies a repeat.

**Output index.** With a prompt of P tokens, the id sampled from the row at position p is output ``p + 1 - P``.
``resumed_ids`` fills outputs ``0 …`` when a lost session is opened again.

**seq** counts the requests of a session: 1, 2, 3 … A repeat with the same bytes gets the same reply, and nothing is
computed twice. A repeat with other bytes, or a gap, gets ``out_of_sequence``. A refused request does not count, with
two exceptions that fail while they are computed: ``not_finite``, and ``internal`` of a Step or Finish.

**prefix.** Prompts of one sheet begin with the same tokens: the provider's or third party's own words. The prefix id is
SHA-256 of the fingerprint and of the token ids, each as four bytes, little-endian. A cloud that has computed the prefix
sets ``cached`` of Opened to the number of its tokens; the device sends only the rows that follow. Any other cloud sets
0, and the device sends all rows.

**position** may lie before the end of what is cached: the cloud first cuts the cache back to it.

**Errors.** ``code`` is an :class:`ErrorCode`, ``advice`` is one sentence for the person, and ``retry_after_s`` is set
when waiting helps.

Nothing is pickled or evaluated: the header is decoded into typed structs, the rows into numbers
(``llama.tensor_frames``, the only part that needs torch).
"""

from __future__ import annotations

import enum
import hashlib
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args

import msgspec
from msgspec import Meta

from llama.text.names import PARTY_NAME, SHEET_NAME
from llama.text.printable import NOT_IN_LINKS

VERSION = 3
MAX_HEADER_BYTES = 1 << 20
OTHER_HEADER_BYTES = 8 << 10  # most of a request, without the ids of an Open and the text of a Publish
MAX_REASON = 300  # characters of a header's refusal; it may hold a field's name, which the peer has chosen
MAX_CONTEXT = 1 << 20  # tokens
MAX_TEXT = 16 << 20  # characters of a reply or a sheet
MAX_ADVICE = 4000  # characters of an Error's message, and of its advice
MAX_STOP_IDS = 64
MAX_WANT = 64
SESSION_BYTES = 16
RUN_ID_BYTES = 16
FINGERPRINT_BYTES = 32
PREFIX_ID_BYTES = 32
MAX_OFFERS = 12  # per reply
MAX_SHEETS = 1000  # in a cloud's directory
MAX_SHEET_BYTES = 64 << 10  # of a published sheet, as UTF-8
MAX_COLLECTED = 64  # deliveries per answer

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes per number

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Seq = Annotated[int, Meta(ge=1, le=2**53)]
Micros = Annotated[int, Meta(ge=0, le=2**53)]
Total = Annotated[int, Meta(ge=0, le=2**53)]  # a count since the cloud's start
SessionId = Annotated[bytes, Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
RunId = Annotated[bytes, Meta(min_length=RUN_ID_BYTES, max_length=RUN_ID_BYTES)]
Fingerprint = Annotated[bytes, Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)]
PrefixId = Annotated[bytes, Meta(max_length=PREFIX_ID_BYTES)]  # see prefix_id; or empty
PromptId = Annotated[str, Meta(max_length=200)]
VendorName = Annotated[str, Meta(pattern=rf"\A{PARTY_NAME}\Z")]  # 1 to 40 of a-z, 0-9 and -
SheetName = Annotated[str, Meta(pattern=rf"\A{SHEET_NAME}\Z")]  # 1 to 80 of the same
Words = Annotated[str, Meta(max_length=500)]
LongText = Annotated[str, Meta(max_length=MAX_TEXT)]
# http(s) or empty; without white space, control characters, quotes and brackets, which would end the link.
WebLink = Annotated[str, Meta(max_length=2000, pattern=rf"\A(https?://[^{NOT_IN_LINKS}]+)?\Z")]


class ErrorCode(enum.StrEnum):
    """Reason of a refusal.

    Attributes:
        BAD_REQUEST: The request is not of this protocol: undecodable, an unknown type or field, a value outside its
            type's bounds, or a wrong number of frames. The client stops; this is a fault in the client.
        UNSUPPORTED_VERSION: Hello names another protocol version. The client stops and asks for the same release on
            both sides.
        WRONG_CHECKPOINT: The device's half and the cloud's are not from the same split. The client stops and asks for
            the matching half.
        BUSY: The cloud has no room now: no slot, a rate limit, too many requests at once, or it is stopping. The client
            waits ``retry_after_s`` and sends the same bytes again.
        UNKNOWN_SESSION: The session is closed, was idle for too long, was ended for another key, or belongs to an
            earlier start of the cloud. The client opens the run again with ``resumed_ids`` and replays it.
        OUT_OF_SEQUENCE: ``seq`` is neither the last accepted one with the same bytes nor the next one, or the request
            before it is still computed. The client stops; this is a fault in the client.
        WRONG_TENSOR: The dtype, shape or length of the rows is not what the header and Welcome say. The client stops;
            this is a fault in the client.
        NOT_FINITE: The rows, or the logits computed from them, hold NaN or infinity. The client stops; the device's
            half is damaged, or float16 overflows (bfloat16 or float32 do not). The request has used its ``seq``.
        OUT_OF_RANGE: A position, ``want``, ``end``, id or sampling setting is outside its bounds. The client stops; it
            shortens the prompt where ``advice`` says so.
        RUN_UNDER_WAY: Forget names a run that is not over. The client closes its session first, or waits until the
            cloud has closed it.
        UNKNOWN_SHEET: The cloud has no sheet of that id, or no longer. The client shows the advice, which lists the
            sheets.
        BAD_SHEET: The published text is not a valid sheet, or it is too large. The client shows the message and does
            not repeat the request.
        NOT_SERVED: The cloud was started without the flag that the request needs, or it has no sheets of that third
            party. The client stops and shows the advice.
        NOT_ALLOWED: The peer's key is not listed any more, or its role does not allow the request. The client stops.
        INTERNAL: The cloud failed. The client stops, or tries again after ``retry_after_s`` where it is set. A Step or
            Finish has used its ``seq``.
    """

    BAD_REQUEST = "bad_request"
    UNSUPPORTED_VERSION = "unsupported_version"
    WRONG_CHECKPOINT = "wrong_checkpoint"
    BUSY = "busy"
    UNKNOWN_SESSION = "unknown_session"
    OUT_OF_SEQUENCE = "out_of_sequence"
    WRONG_TENSOR = "wrong_tensor"
    NOT_FINITE = "not_finite"
    OUT_OF_RANGE = "out_of_range"
    RUN_UNDER_WAY = "run_under_way"
    UNKNOWN_SHEET = "unknown_sheet"
    BAD_SHEET = "bad_sheet"
    NOT_SERVED = "not_served"
    NOT_ALLOWED = "not_allowed"
    INTERNAL = "internal"


class WireMessage(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag=str.lower
):
    """Base of all messages: immutable, tagged with the lower-case class name, strict."""


class _MessagePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the maps inside messages. They have no ``type``."""


class Hello(WireMessage, frozen=True):
    """Ask for the cloud's parameters; also the heartbeat request when a reply is late.

    Attributes:
        version: Version of this protocol.
    """

    version: Count


class Welcome(WireMessage, frozen=True):
    """Parameters of the cloud.

    Attributes:
        version: Version of this protocol.
        fingerprint: Identifies the split checkpoint. Both halves have it in ``params.json``, as ``split.fingerprint``.
        dtype: Type of the rows' numbers: ``float32``, ``bfloat16`` or ``float16``.
        dim: Numbers per row, the model's width.
        split_layer: Number of layers that the device computes.
        max_seq_len: Most tokens of prompt and reply together.
        max_rows: Most rows of one Step.
    """

    version: Count
    fingerprint: Fingerprint
    dtype: Annotated[str, Meta(max_length=32)]
    dim: Count
    split_layer: Count
    max_seq_len: Count
    max_rows: Count


class Open(WireMessage, frozen=True):
    """Ask for a slot for one run. The same ``run_id`` with the same bytes gets the same session.

    Attributes:
        run_id: Random bytes, chosen by the device for each run. A delivery of the run has the same id.
        fingerprint: The device's half's; must equal Welcome's.
        prompt_tokens: Number of tokens of the prompt.
        temperature: 0 to 100, finite. 0 always takes the likeliest token.
        top_p: 0 to 1. Probability mass that the cloud samples from.
        seed: The same seed gives the same choice at the same output index.
        stop_ids: Ids that end the reply. The cloud cuts the text before the first one.
        prompt_id: Id of the prompt sheet, or empty.
        resumed_ids: Ids of the reply so far, when a lost session is opened again. With ``prompt_tokens`` no more than
            ``max_seq_len``.
        prefix: Prefix id of the prompt's first tokens, or empty.
    """

    run_id: RunId
    fingerprint: Fingerprint
    prompt_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    temperature: float
    top_p: float
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    stop_ids: Annotated[tuple[Count, ...], Meta(max_length=MAX_STOP_IDS)]
    prompt_id: PromptId = ""
    resumed_ids: Annotated[tuple[Count, ...], Meta(max_length=MAX_CONTEXT)] = ()
    prefix: PrefixId = b""


class Opened(WireMessage, frozen=True):
    """The session. A client that knows its id owns it; with keys, it also needs the key that opened it.

    Attributes:
        session: Random bytes, chosen by the cloud.
        cached: Positions that are already filled: the length of the prefix, or 0.
    """

    session: SessionId
    cached: Count = 0


class Step(WireMessage, frozen=True):
    """Compute rows from ``position`` on. The second frame holds the rows.

    Attributes:
        session: From Opened.
        seq: Number of this request in the session.
        position: Position of the first row. At most the number of positions that are cached so far.
        want: How many of the last rows need a next id; at most ``rows``.
        dtype: Must equal Welcome's.
        rows: Number of rows; at most ``max_rows``.
        dim: Must equal Welcome's.
        times: Ask the cloud to measure its stages.
    """

    session: SessionId
    seq: Seq
    position: Count
    want: Annotated[int, Meta(ge=0, le=MAX_WANT)]
    dtype: Annotated[str, Meta(max_length=32)]
    rows: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    dim: Count
    times: bool = False


class Stages(_MessagePart, frozen=True):
    """Times of one Step's stages, in microseconds. With several ranks they are the first rank's.

    Attributes:
        queue_us: Waiting behind other requests.
        layers_us: Each of the cloud's layers, in order.
        head_us: Final norm and output head.
        sample_us: Choice of the next ids.
    """

    queue_us: Micros
    layers_us: Annotated[tuple[Micros, ...], Meta(max_length=1024)]
    head_us: Micros
    sample_us: Micros


class Tokens(WireMessage, frozen=True):
    """One id per wanted row.

    Attributes:
        ids: Next ids of the last ``want`` rows, in order.
        compute_us: Microseconds from the arrival of the request to this reply.
        seq: The Step's. A client discards a reply with another ``seq``: it is a late duplicate.
        stages: Times of the stages, if the Step asked for them.
    """

    ids: Annotated[tuple[Count, ...], Meta(max_length=MAX_WANT)]
    compute_us: Micros
    seq: Seq
    stages: Stages | None = None


class Finish(WireMessage, frozen=True):
    """State that outputs ``0 … end-1`` are the reply. The cloud records the run and hands it on; no request undoes it.

    Attributes:
        session: From Opened.
        seq: Number of this request in the session.
        end: Number of outputs in the reply; at most the number of ids received.
    """

    session: SessionId
    seq: Seq
    end: Count


class Usage(_MessagePart, frozen=True):
    """Cost of one run.

    Attributes:
        prompt_tokens: As Open stated.
        output_tokens: Tokens of the reply.
        compute_us: Microseconds that the run waited for the model, all Steps together.
    """

    prompt_tokens: Count
    output_tokens: Count
    compute_us: Micros


class Offer(_MessagePart, frozen=True):
    """A product of the partner catalogue that fits the reply.

    Attributes:
        product: Its id in the catalogue.
        vendor: Name of the partner that sells it.
        title: Its title.
        price: Whole rupiah.
        url: An http(s) link, or empty. Show it as text.
        item: The recommended item that it answers; empty where the reply has no list.
        matched: Words that the reply and the product share.
    """

    product: Words
    vendor: VendorName
    title: Words
    price: Annotated[int, Meta(ge=0, le=2**53)]
    url: WebLink = ""
    item: Words = ""
    matched: Annotated[tuple[Words, ...], Meta(max_length=64)] = ()


class DeliveryStatus(enum.StrEnum):
    """Outcome of the third party's copy.

    Attributes:
        NONE: There is no copy: the run is not of a third party's sheet.
        QUEUED: The third party can collect it.
        WITHHELD: The reply quotes the provider's system prompt. The third party learns only that.
        FAILED: The cloud could not write it down.
    """

    NONE = "none"
    QUEUED = "queued"
    WITHHELD = "withheld"
    FAILED = "failed"


class Final(WireMessage, frozen=True):
    """The finished reply.

    Attributes:
        text: The reply with tags, cut before the first stop id. It must equal the text of the ids received.
        usage: Cost of the run.
        offers: Products that fit the reply, the best first.
        copy: Outcome of the third party's copy: ``none``, ``queued``, ``withheld`` or ``failed``.
    """

    text: LongText
    usage: Usage
    offers: Annotated[tuple[Offer, ...], Meta(max_length=MAX_OFFERS)] = ()
    copy: DeliveryStatus = DeliveryStatus.NONE


class Close(WireMessage, frozen=True):
    """Close the session and free its slot.

    Attributes:
        session: From Opened.
        seq: Number of this request in the session. The cloud does not check it.
    """

    session: SessionId
    seq: Seq


class Closed(WireMessage, frozen=True):
    """The session is closed, or was closed before."""


class ListSheets(WireMessage, frozen=True):
    """List the prompt sheets."""


class SheetEntry(_MessagePart, frozen=True):
    """A sheet of the provider's directory.

    Attributes:
        prompt_id: ``NAME``, or ``PARTY/NAME`` for a third party's sheet.
        title: Its title.
        asks_for: Names of the profile fields that it asks for.
    """

    prompt_id: PromptId
    title: Words
    asks_for: Annotated[tuple[Words, ...], Meta(max_length=64)] = ()


class Sheets(WireMessage, frozen=True):
    """All prompt sheets.

    Attributes:
        sheets: In the order of their prompt ids.
    """

    sheets: Annotated[tuple[SheetEntry, ...], Meta(max_length=MAX_SHEETS)]


class FetchSheet(WireMessage, frozen=True):
    """Fetch one sheet.

    Attributes:
        prompt_id: As in Sheets.
    """

    prompt_id: PromptId


class SheetText(WireMessage, frozen=True):
    """A sheet exactly as the provider's directory holds it.

    Attributes:
        prompt_id: As requested.
        text: The sheet, as TOML (``llama.sheets``).
        system: The provider's own system prompt, which third parties' sheets are wrapped in.
    """

    prompt_id: PromptId
    text: LongText
    system: LongText = ""


class Collect(WireMessage, frozen=True):
    """Fetch the oldest deliveries of a third party that it has not acknowledged.

    Attributes:
        vendor: Name of the third party. With keys, the name of the key.
        limit: Most deliveries of the answer.
    """

    vendor: VendorName
    limit: Annotated[int, Meta(ge=1, le=MAX_COLLECTED)] = MAX_COLLECTED


class Delivery(_MessagePart, frozen=True):
    """A third party's copy of one run of its sheet.

    Attributes:
        run_id: The run's id; it identifies a repeat.
        prompt_id: Id of the sheet.
        finished_at: UTC, ISO 8601.
        prompt: The third party's sheet, as it was when the run was opened.
        text: The reply with tags in place of what the third party need not know.
        offers: The third party's own products that fit the reply.
        withheld: Text and offers are kept back, since the reply quotes the provider's system prompt.
    """

    run_id: RunId
    prompt_id: PromptId
    finished_at: Words
    prompt: LongText
    text: LongText = ""
    offers: Annotated[tuple[Offer, ...], Meta(max_length=MAX_OFFERS)] = ()
    withheld: bool = False


class Deliveries(WireMessage, frozen=True):
    """Unacknowledged deliveries.

    Attributes:
        deliveries: Oldest first. Empty when there are none; fewer than asked for when they are large.
    """

    deliveries: Annotated[tuple[Delivery, ...], Meta(max_length=MAX_COLLECTED)]


class Acknowledge(WireMessage, frozen=True):
    """Confirm deliveries, so that the cloud erases them. Ids that are not this third party's are ignored.

    Attributes:
        vendor: As in Collect.
        run_ids: Ids of the deliveries that are stored.
    """

    vendor: VendorName
    run_ids: Annotated[tuple[RunId, ...], Meta(max_length=MAX_COLLECTED)]


class Acknowledged(WireMessage, frozen=True):
    """The deliveries will not be handed out again."""


class Publish(WireMessage, frozen=True):
    """Add or replace a third party's sheet. Only with keys.

    Attributes:
        vendor: Name of the key.
        name: Name of the sheet in the third party's directory.
        text: The sheet, as TOML (``llama.sheets``); at most 64 KiB as UTF-8.
    """

    vendor: VendorName
    name: SheetName
    text: Annotated[str, Meta(max_length=MAX_SHEET_BYTES)]


class Published(WireMessage, frozen=True):
    """The sheet is written to disk, and devices find it from now on.

    Attributes:
        prompt_id: ``VENDOR/NAME``.
    """

    prompt_id: PromptId


class Withdraw(WireMessage, frozen=True):
    """Remove a third party's sheet. Runs that have begun with it are still delivered. Only with keys.

    Attributes:
        vendor: Name of the key.
        name: Name of the sheet.
    """

    vendor: VendorName
    name: SheetName


class Withdrawn(WireMessage, frozen=True):
    """Devices do not find the sheet any more."""


class Forget(WireMessage, frozen=True):
    """Delete what the cloud keeps of a finished run. With keys, only the key that made the run may; it may be repeated.

    Attributes:
        run_id: As in Open.
    """

    run_id: RunId


class Forgotten(WireMessage, frozen=True):
    """The cloud keeps nothing of the run any more, but for the id of a collected copy.

    Attributes:
        collected: The third party had fetched its copy. What it keeps of it is beyond the cloud's reach.
    """

    collected: bool = False


class Status(WireMessage, frozen=True):
    """Read the cloud's status. With keys, only an operator's key may; without, only clients on the cloud's machine."""


class StatusReport(WireMessage, frozen=True):
    """The cloud's status at this moment, and counts since its start.

    Attributes:
        up_s: Seconds since the start.
        sessions: Open sessions.
        places: Slots of the KV cache.
        waiting: Requests in the slot queue.
        cached: Positions of the cache that sessions have filled.
        cache: Positions of the cache.
        tokens: Ids handed out since the start.
        refusals: Requests answered with Error since the start, without those in the slot queue.
        draining: The cloud opens no more sessions and stops when the last one has ended.
    """

    up_s: Total
    sessions: Count
    places: Count
    waiting: Count
    cached: Total
    cache: Total
    tokens: Total
    refusals: Total
    draining: bool = False


class Error(WireMessage, frozen=True):
    """A refusal of a request.

    Attributes:
        code: Reason of the refusal.
        message: What is wrong.
        advice: What the person can do; one sentence, or empty.
        retry_after_s: Seconds to wait before asking again; omitted where waiting does not help. 0 keeps the client's
            place in the slot queue: ask again at once.
    """

    code: ErrorCode
    message: Annotated[str, Meta(max_length=MAX_ADVICE)]
    advice: Annotated[str, Meta(max_length=MAX_ADVICE)] = ""
    retry_after_s: float | None = None


Request = (
    Hello
    | Open
    | Step
    | Finish
    | Close
    | ListSheets
    | FetchSheet
    | Collect
    | Acknowledge
    | Publish
    | Withdraw
    | Forget
    | Status
)
Reply = (
    Welcome
    | Opened
    | Tokens
    | Final
    | Closed
    | Sheets
    | SheetText
    | Deliveries
    | Acknowledged
    | Published
    | Withdrawn
    | Forgotten
    | StatusReport
    | Error
)

_encoder = msgspec.msgpack.Encoder()
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply, strict=True)


class Refused(Exception):
    """Raised for a request that the cloud must refuse; ``error`` is the reply."""

    def __init__(self, code: ErrorCode, message: str, advice: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.error = Error(code, message, advice, retry_after_s)


def prefix_id(fingerprint: bytes, ids: Sequence[int]) -> bytes:
    """Return a prefix's id: SHA-256 of the fingerprint and of the token ids, four bytes each, little-endian."""
    return hashlib.sha256(fingerprint + b"".join(i.to_bytes(4, "little") for i in ids)).digest()


def encode(message: Request | Reply) -> bytes:
    """Return the header frame of a message."""
    return _encoder.encode(message)


class RequestDecoder:
    """Decoder of the requests to one cloud.

    It refuses data that is longer than the cloud could use before it decodes any of it: a header by its number of
    bytes, a sequence by its length prefix.

    Args:
        max_seq_len: the cloud's context; no Open may have more ``resumed_ids``. None accepts any context.

    Attributes:
        max_header_bytes: most bytes of a request's header.
    """

    def __init__(self, max_seq_len: int | None) -> None:
        self.max_header_bytes = MAX_HEADER_BYTES
        requests: Any = Request
        if max_seq_len is not None:
            # An id has at most five bytes; the only other long field is a sheet's text.
            self.max_header_bytes = min(MAX_HEADER_BYTES, OTHER_HEADER_BYTES + max(MAX_SHEET_BYTES, 5 * max_seq_len))
            resumed_ids = Annotated[tuple[Count, ...], Meta(max_length=max_seq_len)]
            bounded_open = msgspec.defstruct(
                "Open", [("resumed_ids", resumed_ids, ())], bases=(Open,), frozen=True, module=__name__
            )
            requests = Union[bounded_open, *(kind for kind in get_args(Request) if kind is not Open)]
        self._decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(requests, strict=True)

    def decode(self, header: bytes) -> Request:
        """Decode the request in a header frame.

        Raises:
            Refused: ``bad_request``; the text names the field, never its value.
        """
        if len(header) > self.max_header_bytes:
            raise Refused(
                ErrorCode.BAD_REQUEST,
                f"a header of {len(header)} bytes; the most is {self.max_header_bytes}",
                "see llama/wire.py for the protocol",
            )
        try:
            return self._decoder.decode(header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
            reason = "not a MessagePack map"
            if isinstance(err, msgspec.ValidationError):
                reason = re.sub(r"value ['\"].*['\"]", "value", str(err), flags=re.DOTALL)
            raise Refused(
                ErrorCode.BAD_REQUEST, f"header: {reason[:MAX_REASON]}", "see llama/wire.py for the protocol"
            ) from None


_any_decoder = RequestDecoder(None)


def decode_request(header: bytes) -> Request:
    """Decode a request to a cloud of any context. Raises as :meth:`RequestDecoder.decode`."""
    return _any_decoder.decode(header)


def decode_reply(header: bytes) -> Reply:
    """Decode the reply in a header frame.

    Raises:
        ValueError: the bytes are not a reply of this protocol.
    """
    try:
        return _reply_decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ValueError(str(err)) from None


def check_settings(request: Open) -> None:
    """Check the sampling settings of Open, whose bounds its field types do not state.

    Raises:
        Refused: ``out_of_range``.
    """
    if not (math.isfinite(request.temperature) and 0 <= request.temperature <= 100):
        raise Refused(ErrorCode.OUT_OF_RANGE, "temperature must lie between 0 and 100", "0 is greedy, 0.6 usual")
    if not 0 <= request.top_p <= 1:
        raise Refused(ErrorCode.OUT_OF_RANGE, "top_p must lie between 0 and 1", "0.9 is usual")


def check_ids(ids: Sequence[int], vocab_size: int, field: str) -> None:
    """Check that every id is in the vocabulary.

    Raises:
        Refused: ``out_of_range``.
    """
    if ids and max(ids) >= vocab_size:
        raise Refused(ErrorCode.OUT_OF_RANGE, f"{field} holds an id beyond the vocabulary of {vocab_size}")
