"""Claims about the charts in ``docs/images``: they show the published figures, to people and to screen readers."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from llama.errors import UsageError
from tests.benchmarks import charts, decode, figures, serving
from tests.benchmarks.charts import CHARTS, FIGURES_DIR, IMAGES_DIR, THEMES
from tests.benchmarks.contenders import Turn
from tests.benchmarks.figures import Figure, Figures
from tests.conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
FILES = [f"{name}-{tone}.svg" for name in CHARTS for tone in THEMES]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours ``#rrggbb`` (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def shown(name: str) -> list[str]:
    """The medians that a chart shows, as it writes them."""
    held = figures.load(FIGURES_DIR / f"{name}.json").figures
    keys = charts.CONTENDERS if name == "decode" else held
    return [f"{held[key].median:.1f}" for key in keys]


def test_the_charts_are_those_of_the_figures() -> None:
    for name, text in charts.all_charts(FIGURES_DIR).items():
        assert (IMAGES_DIR / name).read_text(encoding="utf-8") == text, f"docs/images/{name} is stale; run: make charts"
    assert sorted(file.name for file in IMAGES_DIR.glob("*.svg") if file.name in FILES) == sorted(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_chart_is_xml_with_the_figures_the_machine_and_a_description(file: str) -> None:
    svg = ElementTree.fromstring((IMAGES_DIR / file).read_text(encoding="utf-8"))
    name = file.split("-")[0]
    held = figures.load(FIGURES_DIR / f"{name}.json")
    texts = [each.text or "" for each in svg.iter(f"{SVG}text")]
    description = svg.findtext(f"{SVG}desc") or ""
    assert svg.tag == f"{SVG}svg" and svg.get("role") == "img" and svg.findtext(f"{SVG}title")
    for median in shown(name):
        assert median in texts and median in description
    for fact in (held.machine, held.versions, held.date):
        assert any(fact in text for text in texts) and fact in description
    assert min(int(each.get("font-size", "0")) for each in svg.iter(f"{SVG}text")) >= 13


@pytest.mark.parametrize("tone", THEMES)
def test_every_colour_can_be_told_from_the_background(tone: str) -> None:
    theme = THEMES[tone]
    for colour in (theme.text, theme.muted, theme.product, theme.other):
        assert contrast(colour, theme.background) >= 4.5


def test_a_longer_name_and_one_without_a_range_are_drawn() -> None:
    held = figures.load(FIGURES_DIR / "decode.json")
    changed = msgspec.structs.replace(
        held, machine="A & B <C>", figures={**held.figures, "split": Figure(99.9)}, note="NOT a quiet machine"
    )
    text = charts.render("decode", changed, THEMES["light"])
    assert "A &amp; B &lt;C&gt; (NOT a quiet machine)" in text and ">99.9<" in text
    ElementTree.fromstring(text)


def test_figures_that_lack_one_are_refused() -> None:
    held = figures.load(FIGURES_DIR / "decode.json")
    with pytest.raises(UsageError, match=r"decode\.json lacks the figure 'uncut'"):
        charts.render("decode", msgspec.structs.replace(held, figures={"split": Figure(1.0)}), THEMES["light"])


# ---- the programs write what the charts read


def test_what_the_programs_save_is_drawn(tmp_path: Path) -> None:
    rounds = [{name: Turn(per_s=10.0 + i, ids=[1]) for name in decode.SPEAKING} for i in range(3)]
    figures.save(decode.published(rounds, "a model", quiet=True), tmp_path / "decode.json")
    figures.save(serving.published({1: [12.0], 8: [40.0]}, "a model", 1, quiet=False), tmp_path / "serving.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["decode.json", "serving.json"]
    charts.main(str(tmp_path), str(tmp_path / "images"))
    drawn = (tmp_path / "images" / "decode-light.svg").read_text(encoding="utf-8")
    assert ">11.0<" in drawn and "10.0 – 12.0" in drawn and "torch" in drawn
    assert "NOT a quiet machine" in (tmp_path / "images" / "serving-dark.svg").read_text(encoding="utf-8")


def test_figures_of_another_format_are_refused_and_a_place_is_looked_for_first(tmp_path: Path) -> None:
    (tmp_path / "decode.json").write_text('{"setting": 1}')
    for missing in ("decode.json", "serving.json"):
        with pytest.raises(UsageError, match="holds no figures"):
            figures.load(tmp_path / missing)
    with pytest.raises(UsageError, match="no directory"):
        figures.check_place(str(tmp_path / "none" / "x.json"))
    figures.check_place(str(tmp_path / "x.json"))
    figures.check_place(None)


def test_a_file_that_is_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    held = Figures("a model", "tokens/s", 1, "a machine", "python 3", "2026-11-25", {"1": Figure(1.0)})
    figures.save(held, tmp_path / "x.json")
    figures.save(msgspec.structs.replace(held, rounds=2), tmp_path / "x.json")
    assert figures.load(tmp_path / "x.json").rounds == 2 and len([*tmp_path.iterdir()]) == 1


# ---- the page


@pytest.mark.parametrize("name", CHARTS)
def test_the_page_shows_the_chart_in_both_tones_and_its_figures(name: str) -> None:
    assert f'srcset="images/{name}-dark.svg"' in PAGE and f'src="images/{name}-light.svg"' in PAGE
    (alt,) = re.findall(rf'src="images/{name}-light\.svg" alt="([^"]*)"', PAGE)
    for median in shown(name):
        found = re.search(rf"\b{re.escape(median)}\b", alt) and f" {median} " in PAGE
        assert found, f"docs/performance.md lacks {median}, which docs/figures/{name}.json has; write it there"
