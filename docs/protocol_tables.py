"""Tables of ``docs/protocol.md``, made from the message classes of ``llama.wire``.

    python -m docs.protocol_tables      (make docs)

writes each table into the page, between ``<!-- generated: NAME -->`` and ``<!-- end -->``. Fields, types and bounds
come from the annotations, descriptions from the docstrings. Only who sends a request, and what answers it, stands here.
"""

from __future__ import annotations

import enum
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import msgspec

from llama import wire

PAGE = Path(__file__).resolve().parent / "protocol.md"

# Who may send each request, by the role of its key; and what answers it.
SENDERS: dict[type[msgspec.Struct], tuple[tuple[str, ...], type[msgspec.Struct]]] = {
    wire.Hello: (("device", "vendor", "operator"), wire.Welcome),
    wire.Open: (("device",), wire.Opened),
    wire.Step: (("device",), wire.Tokens),
    wire.Finish: (("device",), wire.Final),
    wire.Close: (("device",), wire.Closed),
    wire.ListSheets: (("device",), wire.Sheets),
    wire.FetchSheet: (("device",), wire.SheetText),
    wire.Collect: (("vendor",), wire.Deliveries),
    wire.Acknowledge: (("vendor",), wire.Acknowledged),
    wire.Publish: (("vendor",), wire.Published),
    wire.Withdraw: (("vendor",), wire.Withdrawn),
    wire.Forget: (("device",), wire.Forgotten),
    wire.Status: (("operator",), wire.StatusReport),
}
REQUESTS: tuple[type[msgspec.Struct], ...] = get_args(wire.Request)
REPLIES: tuple[type[msgspec.Struct], ...] = get_args(wire.Reply)
PARTS: tuple[type[msgspec.Struct], ...] = (wire.Stages, wire.Usage, wire.Offer, wire.SheetEntry, wire.Delivery)


def _pattern_of(annotated: Any) -> str:
    """Return the regular expression of an annotated string type."""
    (meta,) = (each for each in annotated.__metadata__ if isinstance(each, msgspec.Meta))
    assert meta.pattern is not None
    return meta.pattern


PATTERNS = {
    _pattern_of(wire.VendorName): "1 … 40 of `a-z`, `0-9`, `-`",
    _pattern_of(wire.SheetName): "1 … 80 of `a-z`, `0-9`, `-`",
    _pattern_of(wire.WebLink): "`http://…` or `https://…` without white space, control characters, quotes or brackets; "
    "or empty",
}


def render(page: str) -> str:
    """Return the page with all its tables made anew.

    Raises:
        ValueError: the page lacks the markers of a table, or has others.
    """
    tables = {"requests": requests(), "messages": messages(), "parts": parts(), "errors": errors()}
    names = re.findall(r"<!-- generated: (\w+) -->", page)
    if sorted(names) != sorted(tables):
        raise ValueError(f"{PAGE.name} must have one marker for each of {', '.join(tables)} (found {', '.join(names)})")

    def table(found: re.Match[str]) -> str:
        return f"<!-- generated: {found[1]} -->\n\n{tables[found[1]]}\n\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def requests() -> str:
    """Return the table of requests: sender, purpose, reply."""
    lines = ["| request | sent by a key of role | purpose | reply |", "|---|---|---|---|"]
    for request in REQUESTS:
        roles, reply = SENDERS[request]
        lines.append(f"| {_link(request)} | {', '.join(roles)} | {_summary(request)} | {_link(reply)} |")
    return "\n".join(lines)


def messages() -> str:
    """Return a section for each message, each request followed by its reply; Error comes last."""
    sections = list[str]()
    for request in REQUESTS:
        roles, reply = SENDERS[request]
        sent = f"Request, sent by: {', '.join(roles)}. Answered by {_link(reply)} or {_link(wire.Error)}."
        sections += [_section(request, sent), _section(reply, f"Reply to {_link(request)}.")]
    return "\n\n".join([*sections, _section(wire.Error, "Reply to any request.")])


def parts() -> str:
    """Return a section for each map inside a message."""
    return "\n\n".join(_section(part, "Map inside a message; it has no `type`.") for part in PARTS)


def errors() -> str:
    """Return the table of error codes: meaning, and the client's reaction."""
    lines = ["| code | meaning | the client |", "|---|---|---|"]
    described = descriptions(wire.ErrorCode)
    for code in wire.ErrorCode:
        meaning, _, reaction = described[code.name].partition(" The client ")
        lines.append(f"| `{code.value}` | {_cell(meaning)} | {_cell(reaction)} |")
    return "\n".join(lines)


def descriptions(cls: type) -> dict[str, str]:
    """Return the entries of a docstring's Attributes section, by name."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _section(cls: type[msgspec.Struct], who: str) -> str:
    text = f"#### {cls.__name__}\n\n{_summary(cls)} {who}"
    tag, info = cls.__struct_config__.tag, msgspec.inspect.type_info(cls)
    assert isinstance(info, msgspec.inspect.StructType)
    if tag is not None:
        text += f" `type` is `{tag}`."
    if not info.fields:
        return f"{text} It has no fields."
    described = descriptions(cls)
    lines = ["| field | type | bounds | default | meaning |", "|---|---|---|---|---|"]
    for field in info.fields:
        kind, bounds = _type(field.type)
        meaning = _cell(described[field.name])
        lines.append(f"| `{field.name}` | {kind} | {bounds} | {_default(field)} | {meaning} |")
    return f"{text}\n\n" + "\n".join(lines)


def _type(kind: msgspec.inspect.Type) -> tuple[str, str]:
    """Return a type in MessagePack's words, and its bounds."""
    match kind:
        case msgspec.inspect.BoolType():
            return "bool", ""
        case msgspec.inspect.IntType():
            return "int", _between(kind.ge, kind.le)
        case msgspec.inspect.FloatType():
            return "float", ""
        case msgspec.inspect.StrType():
            return "str", PATTERNS[kind.pattern] if kind.pattern else f"at most {_number(kind.max_length)} characters"
        case msgspec.inspect.BytesType():
            exact = kind.min_length == kind.max_length
            return "bin", f"{kind.max_length} bytes" if exact else f"at most {kind.max_length} bytes"
        case msgspec.inspect.EnumType():
            return "str", " ".join(f"`{each.value}`" for each in kind.cls) if len(kind.cls) < 6 else "see below"
        case msgspec.inspect.StructType():
            return f"map {_link(kind.cls)}", ""
        case msgspec.inspect.VarTupleType():
            item, bounds = _type(kind.item_type)
            most = f"at most {_number(kind.max_length)}"
            return f"array of {item}", f"{most}, each {bounds}" if bounds else most
        case msgspec.inspect.UnionType():
            (one,) = (each for each in kind.types if not isinstance(each, msgspec.inspect.NoneType))
            return _type(one)[0] + " or nil", _type(one)[1]
    raise TypeError(f"no words for {kind}")


def _between(low: int | None, high: int | None) -> str:
    return f"{_number(low)} … {_number(high)}"


def _number(value: int | None) -> str:
    """Return a number with thousands separators; a large power of two, or one less, as such."""
    assert value is not None
    for power, suffix in ((value, ""), (value + 1, " − 1")):
        if power > 2**24 and power & (power - 1) == 0:
            return f"2^{power.bit_length() - 1}{suffix}"
    return f"{value:,}"


def _default(field: msgspec.inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, enum.Enum):
        return f"`{value.value}`"
    if value is None:
        return "nil"
    if isinstance(value, bool | int):
        return str(value).lower()
    return "empty"


def _link(cls: type) -> str:
    return f"[{cls.__name__}](#{cls.__name__.lower()})"


def _summary(cls: type) -> str:
    """Return a docstring's first paragraph, with code in Markdown's quotes."""
    return _cell((inspect.getdoc(cls) or "").split("\n\n")[0])


def _cell(text: str) -> str:
    """Return text for a table's cell: on one line, and code in Markdown's quotes."""
    one_line = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
    return one_line[:1].upper() + one_line[1:]


def main() -> None:
    """Write the tables into the page."""
    page = PAGE.read_text(encoding="utf-8")
    if (made := render(page)) != page:
        PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
