"""Take the pictures of the page in the README: a real run of SmolLM2 in Chromium, in light and dark colours.

Used as::

    python -m tests.benchmarks.screenshot     (needs Chromium and the halves of make demo)
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from llama.cloud.importing import import_products
from tests.processes import cloud
from tests.support import Process

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES = ROOT / "docs" / "images"
HALVES = ROOT / ".demo" / "smollm2"
SIZE = {"width": 1280, "height": 800}
RUN_MS = 120_000  # milliseconds that a run may take


def main() -> None:
    """Run the birthday sheet once in each colour scheme and write ``docs/images/page-{light,dark}.png``."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("chromium is missing, so docs/images/page-*.png stay as they are; to take them: apt-get install chromium")
        return
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        import_products(ROOT / "examples" / "catalogue.jsonl", here / "products.sqlite")
        served = ["--sheet_dir", ROOT / "examples" / "sheets", "--catalogue", here / "products.sqlite"]
        served += ["--record_file", here / "runs.sqlite"]
        with (
            cloud(HALVES / "cloud", *served) as running,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for scheme in ("light", "dark"):
                _take(browser, scheme, running.address, here)
            browser.close()


def _take(browser: Browser, scheme: str, address: str, directory: Path) -> None:
    """Run the sheet on a page in ``scheme`` and save the page as far as the reply and its offers."""
    profile = Path(shutil.copy(ROOT / "examples" / "profile.toml", directory / f"{scheme}.toml"))
    command = ["edge_main.py", "--ckpt_dir", HALVES / "edge", "--cloud", address, "--profile_file", profile]
    command += ["--prompt_id", "birthday", "--temperature", 0, "--web"]
    with Process(*map(str, command)) as device:
        line = device.line_with("http://127.0.0.1:")
        page = browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()  # type: ignore[arg-type]
        page.goto(line[line.index("http://") :].strip())
        start = page.get_by_role("button", name="Start")
        expect(start).to_be_enabled(timeout=RUN_MS)
        start.click()
        page.get_by_role("button", name="Agree").click()
        done = page.get_by_role("table", name="What each party holds after the run")
        expect(done).to_be_visible(timeout=RUN_MS)
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        written = IMAGES / f".page-{scheme}.png"
        below = page.get_by_role("heading", name="Who saw what").bounding_box()
        assert below is not None
        above = {"x": 0, "y": 0, "width": SIZE["width"], "height": below["y"] - 10}
        page.screenshot(path=written, full_page=True, type="png", clip=above)  # type: ignore[arg-type]
        written.replace(IMAGES / f"page-{scheme}.png")
        page.context.close()


if __name__ == "__main__":
    main()
