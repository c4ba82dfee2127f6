"""Charts of the published figures, as SVG files for a light and a dark page.

    python -m tests.benchmarks.charts [--figures_dir docs/figures] [--images_dir docs/images]      (make charts)

Reads ``decode.json`` and ``serving.json`` and writes ``NAME-light.svg`` and ``NAME-dark.svg`` for each. The same
figures give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from llama.command import run
from llama.errors import UsageError
from tests.benchmarks.figures import Figure, Figures, load
from tests.processes import ROOT

FIGURES_DIR, IMAGES_DIR = ROOT / "docs" / "figures", ROOT / "docs" / "images"
WIDTH, MARGIN = 760, 24
FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
CONTENDERS = {
    "split": "split, over loopback",
    "uncut": "uncut, one process",
    "transformers": "transformers generate",
}


@dataclass(frozen=True)
class Theme:
    """Colours of one page: text and bars have a contrast of 4.5 or more with the background.

    Attributes:
        background, text, muted, grid: of the page, headings and labels, small print, lines.
        product: bars of the product's own figures.
        other: bars of what it is compared with.
    """

    background: str
    text: str
    muted: str
    grid: str
    product: str
    other: str


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#0969da", "#6e7781"),
    "dark": Theme("#0d1117", "#f0f6fc", "#9198a1", "#3d444d", "#4493f8", "#8b949e"),
}


def render(name: str, figures: Figures, theme: Theme) -> str:
    """Return one chart as SVG.

    Raises:
        UsageError: the figures lack one that the chart shows.
    """
    try:
        return CHARTS[name](figures, theme)
    except KeyError as err:
        raise UsageError(f"{name}.json lacks the figure {err}; make it again: make bench") from None


def _decode(figures: Figures, theme: Theme) -> str:
    """Draw a bar for each contender, from left to right, with its range."""
    shown = {title: figures.figures[key] for key, title in CONTENDERS.items()}
    left, right, top, step, bar = 190, 120, 92, 54, 26
    height = top + step * len(shown) + 82
    scale = (WIDTH - left - right) / max(_top(figure) for figure in shown.values())
    parts = list[str]()
    for row, (title, figure) in enumerate(shown.items()):
        y, length = top + row * step, figure.median * scale
        middle = y + bar / 2
        colour = theme.product if row == 0 else theme.other
        parts += [
            _text(left - 12, middle + 5, title, theme.text, anchor="end"),
            _rect(left, y, length, bar, colour),
        ]
        if figure.low is not None and figure.high is not None:
            low, high = left + figure.low * scale, left + figure.high * scale
            parts += [
                _line(low, middle, high, middle, theme.text),
                *(_line(x, middle - 5, x, middle + 5, theme.text) for x in (low, high)),
            ]
        parts.append(_text(left + _top(figure) * scale + 10, middle + 5, _number(figure), theme.text, bold=True))
        if figure.low is not None and figure.high is not None:
            parts.append(_text(left, y + bar + 16, _range(figure), theme.muted, size=13))
    parts.append(_line(left, top - 8, left, top + step * len(shown) - 8, theme.grid))
    return _svg(
        "Decoding: tokens per second",
        "bars: median; lines: least to most",
        _description("Tokens per second, one device", shown, figures),
        parts,
        figures,
        theme,
        height,
    )


def _serving(figures: Figures, theme: Theme) -> str:
    """Draw a column for each number of devices, with its range."""
    shown = {key: figures.figures[key] for key in sorted(figures.figures, key=int)}
    top, plot, bottom = 104, 190, 112
    height = top + plot + bottom
    scale, step = plot / max(_top(figure) for figure in shown.values()), (WIDTH - 2 * MARGIN) / len(shown)
    bar, base = min(64.0, 0.6 * step), top + plot
    parts = list[str]()
    for column, (devices, figure) in enumerate(shown.items()):
        middle, length = MARGIN + (column + 0.5) * step, figure.median * scale
        colour = theme.other if devices == "1" else theme.product
        parts.append(_rect(middle - bar / 2, base - length, bar, length, colour))
        if figure.low is not None and figure.high is not None:
            low, high = base - figure.low * scale, base - figure.high * scale
            parts += [
                _line(middle, low, middle, high, theme.text),
                *(_line(middle - 5, y, middle + 5, y, theme.text) for y in (low, high)),
            ]
        label = "1 device" if devices == "1" else f"{devices} devices"
        parts += [
            _text(middle, base - _top(figure) * scale - 8, _number(figure), theme.text, anchor="middle", bold=True),
            _text(middle, base + 20, label, theme.text, anchor="middle"),
        ]
    parts.append(_line(MARGIN, base, WIDTH - MARGIN, base, theme.grid))
    titles = {"1 device" if key == "1" else f"{key} devices": figure for key, figure in shown.items()}
    return _svg(
        "Many devices share each forward pass: tokens per second together",
        "columns: median; lines, where drawn: least to most",
        _description("Tokens per second of all devices together", titles, figures),
        parts,
        figures,
        theme,
        height,
    )


CHARTS: dict[str, Callable[[Figures, Theme], str]] = {"decode": _decode, "serving": _serving}


def _svg(
    title: str, legend: str, description: str, parts: list[str], figures: Figures, theme: Theme, height: float
) -> str:
    """Put a heading, small print, and a title and description for screen readers around the parts."""
    rounds = "1 round" if figures.rounds == 1 else f"{figures.rounds} rounds"
    small = [
        f"{figures.setting}; {rounds}, {figures.date}",
        figures.machine + (f" ({figures.note})" if figures.note else ""),
        figures.versions,
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {_at(height)}" width="{WIDTH}" '
        f'height="{_at(height)}" role="img" aria-labelledby="title desc" font-family="{FONT}">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(description)}</desc>',
        _rect(0, 0, WIDTH, height, theme.background),
        _text(MARGIN, 38, title, theme.text, size=19, bold=True),
        _text(MARGIN, 62, legend, theme.muted, size=13),
        *parts,
        *(_text(MARGIN, height - 56 + 20 * line, text, theme.muted, size=13) for line, text in enumerate(small)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _description(what: str, shown: Mapping[str, Figure], figures: Figures) -> str:
    """Return all that the chart shows, in words."""
    each = "; ".join(
        f"{title} {_number(figure)}" + (f" ({_range(figure)})" if figure.low is not None else "")
        for title, figure in shown.items()
    )
    return f"{what}: {each}. {figures.setting}. {figures.machine}; {figures.versions}; {figures.date}."


def _text(
    x: float, y: float, text: str, colour: str, *, size: int = 15, anchor: str = "start", bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{_at(x)}" y="{_at(y)}" fill="{colour}" font-size="{size}" text-anchor="{anchor}"{weight}>'
        f"{escape(text)}</text>"
    )


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{_at(x)}" y="{_at(y)}" width="{_at(width)}" height="{_at(height)}" fill="{colour}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{_at(x1)}" y1="{_at(y1)}" x2="{_at(x2)}" y2="{_at(y2)}" stroke="{colour}" stroke-width="1.5"/>'


def _at(value: float) -> str:
    """Return a coordinate: at most one digit after the point, so that files stay small and equal everywhere."""
    return f"{value:.1f}".removesuffix(".0")


def _number(figure: Figure) -> str:
    return f"{figure.median:.1f}"


def _range(figure: Figure) -> str:
    return f"{figure.low:.1f} – {figure.high:.1f}"


def _top(figure: Figure) -> float:
    return figure.median if figure.high is None else figure.high


def all_charts(figures_dir: str | Path) -> dict[str, str]:
    """Return every chart in every theme, by the name of its file.

    Raises:
        UsageError: figures are missing.
    """
    figures = {name: load(Path(figures_dir) / f"{name}.json") for name in CHARTS}
    return {
        f"{name}-{tone}.svg": render(name, figures[name], theme) for name in CHARTS for tone, theme in THEMES.items()
    }


def main(figures_dir: str = str(FIGURES_DIR), images_dir: str = str(IMAGES_DIR)) -> None:
    """Draw all charts.

    Args:
        figures_dir: where decode.json and serving.json are.
        images_dir: where the charts are written.
    """
    charts = all_charts(figures_dir)
    Path(images_dir).mkdir(parents=True, exist_ok=True)
    for name, text in charts.items():
        (Path(images_dir) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
