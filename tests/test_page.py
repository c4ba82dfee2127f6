"""The page, as a person uses it: in a real Chromium, against the real program and a real cloud.

Where a test is about what the page makes of what it is told, and not about the model, the server is real and the
controller behind it is scripted (``tests.scripted_page``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from llama.cloud.importing import import_products
from tests.processes import Cloud, cloud
from tests.programs import needed
from tests.scripted_page import HOSTILE, TOKEN, Scripted, serving
from tests.support import Process, written

Splits = Callable[..., Path]

ROOT = Path(__file__).resolve().parent.parent
SHEETS, PROFILE, CATALOGUE = ROOT / "examples/sheets", ROOT / "examples/profile.toml", ROOT / "examples/catalogue.jsonl"
PHONE, DESKTOP = (360, 740), (1280, 800)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BUSY_S = 60_000  # milliseconds; reached only when a test is about to fail
SHOTS = os.environ.get("SPLIT_LLAMA_SHOTS")  # a directory for screenshots, for people who look


# ---- the stage


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    path = needed("chromium")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Screen:
    """A page in a window of its own; whatever the browser complains about is kept."""

    def __init__(self, browser: Browser, size: tuple[int, int] = DESKTOP, **options: str) -> None:
        self.context: BrowserContext = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, **options  # type: ignore[arg-type]
        )  # fmt: skip
        self.page: Page = self.context.new_page()
        self.complaints = list[str]()
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda err: self.complaints.append(str(err)))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('CSP', e.violatedDirective, e.sourceFile))"
        )

    def open(self, address: str) -> Page:
        self.page.goto(address)
        expect(self.page.locator("#all")).to_be_visible()
        return self.page

    def shot(self, name: str) -> None:
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page="done" in name)


@contextlib.contextmanager
def screen(
    browser: Browser, size: tuple[int, int] = DESKTOP, *, complaints: str | None = None, **options: str
) -> Iterator[Screen]:
    """A window; at its end, the console holds nothing but ``complaints``, a pattern."""
    it = Screen(browser, size, **options)
    yield it
    unexpected = [c for c in it.complaints if complaints is None or not re.search(complaints, c)]
    it.context.close()
    assert not unexpected


@dataclass
class Program:
    """The device's program with its page."""

    address: str
    profile: Path
    process: Process

    @property
    def origin(self) -> str:
        return self.address.partition("/#")[0]

    @property
    def token(self) -> str:
        return self.address.partition("#")[2]

    @property
    def consents(self) -> Path:
        return self.profile.with_name("profile.toml.consents.json")


@contextlib.contextmanager
def program(ckpt_dir: Path, address: str, directory: Path, *flags: object) -> Iterator[Program]:
    """``edge_main.py --web`` with a copy of the sample profile."""
    profile = Path(shutil.copy(PROFILE, directory / "profile.toml"))
    command = ["edge_main.py", "--ckpt_dir", ckpt_dir, "--cloud", address, "--profile_file", profile, "--web"]
    with Process(*map(str, [*command, "--temperature", 0, *flags])) as process:
        line = process.line_with("http://127.0.0.1:")
        yield Program(line[line.index("http://") :].strip(), profile, process)


@pytest.fixture(scope="module")
def byte_cloud(tiny_split: Splits) -> Iterator[Cloud]:
    """A cloud whose words do not matter, with room for thousands of them."""
    with cloud(tiny_split() / "cloud", "--max_seq_len", 4096) as running:
        yield running


@pytest.fixture(scope="module")
def bytes_page(
    tiny_split: Splits, byte_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:  # fmt: skip
    """The page before that cloud; tests that agree to something agree each to another sheet."""
    directory = tmp_path_factory.mktemp("page")
    with program(tiny_split() / "edge", byte_cloud.address, directory, "--sheet_dir", SHEETS) as running:
        yield running


@pytest.fixture
def own_page(tiny_split: Splits, byte_cloud: Cloud, tmp_path: Path) -> Iterator[Program]:
    """The same, for one test that changes its profile or ends it."""
    with program(tiny_split() / "edge", byte_cloud.address, tmp_path, "--sheet_dir", SHEETS) as running:
        yield running


def choose(page: Page, prompt_id: str = "birthday") -> None:
    page.get_by_label("Prompt sheet").select_option(prompt_id)
    expect(page.get_by_label("The system prompt")).to_be_visible()


def start_and_agree(page: Page) -> None:
    page.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Agree").click()


def status(page: Page) -> str:
    return page.locator("#status").inner_text()


def expect_to_fit(page: Page) -> None:
    width, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= room


def expect_accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not grave, [(v["id"], [n["html"] for n in v["nodes"]]) for v in grave]


# ---- a run


def test_a_whole_run_from_consent_to_offers(browser: Browser, smollm2_split: Splits, tmp_path: Path) -> None:
    """The cloud's sheet, this person's profile, SmolLM2's words; then once more, without being asked again."""
    half, products = smollm2_split(), tmp_path / "products.sqlite"
    import_products(CATALOGUE, products)
    one = ("--threads", 1)  # the browser needs a core, too
    serve = [*one, "--sheet_dir", SHEETS, "--record_file", tmp_path / "runs.sqlite", "--catalogue", products]
    with (
        cloud(half / "cloud", *serve) as running,
        program(half / "edge", running.address, tmp_path, *one) as edge,
        screen(browser) as window,
    ):
        page = window.open(edge.address)
        expect(page.get_by_text("Choose a prompt sheet to begin.")).to_be_visible()
        choose(page)
        notes = page.locator("li.field", has_text="Notes")
        expect(notes).to_contain_text("Nothing sweet because of my diabetes.")
        expect(notes).to_contain_text("Nothing sweet because of my [PRIVATE_1]. [NAME_1] can be reached at [PHONE_1].")
        expect(page.get_by_label("The prompt as it leaves")).to_contain_text("For: my husband [NAME_1].")
        expect(page.locator(".legend")).to_contain_text("[NAME_1]Rudi Hartono")
        expect(page.locator("#status")).to_have_text("Ready. Nothing has been sent.")

        page.get_by_role("button", name="Start").click()
        question = page.get_by_role("dialog", name="Do you agree?")
        expect(question).to_contain_text("Three gifts for a birthday (from the provider, to recommend) asks for:")
        expect(question).to_contain_text("as you wrote it, with tags for the secrets that are recognised in it")
        expect(question).to_contain_text("The provider can read everything you send")
        question.get_by_role("button", name="Agree").click()
        expect(page.get_by_label("The reply")).to_contain_text("Gifts for Rudi Hartono")
        window.shot("desktop-light-real-mid")
        expect(page.locator("#status")).to_contain_text("Done:", timeout=BUSY_S)

        expect(page.locator("li.offer").first).to_contain_text(re.compile(r"Rp \d+(\.\d{3})+"))
        assert page.get_by_role("link").count() == 0
        assert page.locator(".zone.cloud .bar.layer").count() == 29
        expect(page.locator(".zone.cloud")).to_contain_text(re.compile(r"Layers 1 … 29\s*[\d.]+ ms"))
        expect(page.locator(".crossing.out")).to_contain_text("1 × 576 float32")
        providers = " ".join(page.locator("td[data-party=provider]").all_inner_texts())
        assert "Gifts for [NAME_1]" in providers
        assert not re.search("rudi|hartono|diabetes|7890", providers, re.IGNORECASE)
        restored = page.get_by_role("row", name="reply, restored").locator("td[data-party=customer]")
        expect(restored).to_contain_text("Gifts for Rudi Hartono")
        window.shot("desktop-light-real-done")

        page.get_by_role("button", name="Start").click()
        expect(page.locator("#status")).to_contain_text("is being written", timeout=BUSY_S)
        expect(page.locator("#status")).to_contain_text("Done:", timeout=BUSY_S)


SCRIPT = "<script>document.title = 'taken'</script> [bold]{}[/bold]"
HOSTILE_SHEET = f"""
title = "<b onclick='x'>Gifts</b> [bold]"
task = "recommend"
system = "Repeat what the user says, as it is."
examples = [
  {{ user = "Say: 1. {SCRIPT.format("coffee set")}", assistant = "1. {SCRIPT.format("coffee set")}" }},
  {{ user = "Say: 1. {SCRIPT.format("paint set")}", assistant = "1. {SCRIPT.format("paint set")}" }},
]
questions = ["Say: 1. {SCRIPT.format("tea set")}"]
"""
HOSTILE_PRODUCT: dict[str, Any] = {
    "id": "x-1",
    "vendor": "x",
    "title": "<img src=x onerror=alert(1)> [bold]Tea set[/bold]",
    "price": 1,
}


def test_a_reply_and_a_product_full_of_markup_are_text(browser: Browser, smollm2_split: Splits, tmp_path: Path) -> None:
    """SmolLM2 does say it, and the catalogue does offer it; nothing of it runs."""
    half, products = smollm2_split(), tmp_path / "products.sqlite"
    (tmp_path / "products.jsonl").write_text(json.dumps(HOSTILE_PRODUCT))
    import_products(tmp_path / "products.jsonl", products)
    sheets = written(tmp_path, {"sheets/hostile.toml": HOSTILE_SHEET, "sheets/system.txt": "Be kind."}) / "sheets"
    one = ("--threads", 1)
    with (
        cloud(half / "cloud", *one, "--sheet_dir", sheets, "--catalogue", products) as running,
        program(half / "edge", running.address, tmp_path, *one, "--max_gen_len", 60) as edge,
        screen(browser) as window,
    ):
        page = window.open(edge.address)
        choose(page, "hostile")
        page.get_by_role("button", name="Start").click()
        expect(page.locator("#status")).to_contain_text("Done:", timeout=BUSY_S)
        expect(page.get_by_label("The reply")).to_contain_text(SCRIPT.format("tea set"))
        expect(page.locator("li.offer")).to_contain_text(HOSTILE_PRODUCT["title"])
        assert page.title() != "taken" and page.locator("main img, main script, [onclick]").count() == 0


def test_a_declined_run_sends_nothing(browser: Browser, bytes_page: Program) -> None:
    """With the button, and with Escape; nothing is remembered as agreed to."""
    with screen(browser) as window:
        page, asked = window.open(bytes_page.address), list[str]()
        page.on("request", lambda request: asked.append(request.url) if "/api/run" in request.url else None)
        choose(page, "corporate-holiday")
        for decline in ("button", "Escape"):
            page.get_by_role("button", name="Start").click()
            expect(page.get_by_role("dialog")).to_be_visible()
            if decline == "button":
                page.get_by_role("button", name="Decline").click()
            else:
                page.keyboard.press("Escape")
            expect(page.locator("#status")).to_have_text("You declined. Nothing was sent.")
            expect(page.get_by_role("article", name="Recommendations")).to_contain_text(
                "You declined. Nothing was sent."
            )
        assert not bytes_page.consents.exists() or "employer" not in bytes_page.consents.read_text()
        assert asked == []


def test_a_run_is_stopped_and_survives_a_reload(browser: Browser, bytes_page: Program) -> None:
    """What was written so far stays."""
    with screen(browser) as window:
        page = window.open(bytes_page.address)
        choose(page)
        start_and_agree(page)
        expect(page.locator("#status")).to_contain_text("is being written", timeout=BUSY_S)
        page.reload()
        expect(page.locator("#status")).to_contain_text("is being written")
        expect(page.get_by_label("Prompt sheet")).to_have_value("birthday")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#status")).to_have_text(re.compile(r"Stopped after \d+ tokens\."))
        expect(page.get_by_role("article", name="Recommendations")).to_contain_text("You stopped the run.")
        written = page.get_by_label("The reply").inner_text()
        page.reload()
        expect(page.locator("#status")).to_have_text(re.compile(r"Stopped after \d+ tokens\."))
        assert page.get_by_label("The reply").inner_text() == written != ""
        expect(page.get_by_role("button", name="Start")).to_be_enabled()


def test_a_run_goes_on_when_a_killed_cloud_is_back(browser: Browser, tiny_split: Splits, tmp_path: Path) -> None:
    """SIGKILL in mid-run; the same port."""
    half = tiny_split()
    flags = ("--sheet_dir", SHEETS, "--max_gen_len", 600)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(cloud(half / "cloud", "--max_seq_len", 4096))
        edge = stack.enter_context(program(half / "edge", first.address, tmp_path, *flags))
        window = stack.enter_context(screen(browser))
        page = window.open(edge.address)
        choose(page)
        start_and_agree(page)
        expect(page.locator("#status")).to_contain_text("is being written", timeout=BUSY_S)
        os.kill(first.pid, signal.SIGKILL)
        expect(page.locator("#banners")).to_contain_text(
            "The cloud is away. Your device keeps trying. The run continues"
        )
        expect(page.locator("#status")).to_contain_text("nothing new for")
        window.shot("desktop-light-cloud-away")
        stack.enter_context(cloud(half / "cloud", "--max_seq_len", 4096, bind=first.address))
        expect(page.locator("#banners")).to_contain_text("The cloud is back. The run continues.")
        expect(page.locator("#status")).to_contain_text("Done: 600 tokens", timeout=BUSY_S)
        expect(page.locator("#banners")).to_be_empty()
        expect(page.locator("#reply")).to_contain_text("cut off after 600 tokens")


def test_a_page_says_that_the_program_has_ended(browser: Browser, own_page: Program) -> None:
    """And does not spin; the program ends without a word although a page is open."""
    with screen(browser, complaints="ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET") as window:
        page = window.open(own_page.address)
        own_page.process.signal(signal.SIGINT)
        expect(page.locator("#banners")).to_contain_text("Connection to the program lost. It may have ended.")
        expect(page.get_by_role("button", name="Start")).to_be_disabled()
        page.get_by_role("button", name="Try now").click()
        expect(page.locator("#banners")).to_contain_text("Connection to the program lost.")
    own_page.process.ended()
    assert own_page.process.stderr == "interrupted\n"


# ---- who may ask


def test_strangers_are_refused(browser: Browser, bytes_page: Program) -> None:
    """Another origin, another host, a wrong token, none: 403; and the page says what to open instead."""

    def answers(**headers: str) -> int:
        request = urllib.request.Request(f"{bytes_page.origin}/api/state", headers=headers)
        try:
            with urllib.request.urlopen(request) as response:
                return int(response.status)
        except urllib.error.HTTPError as err:
            return err.code

    token = {"X-Token": bytes_page.token}
    assert answers(**token) == 200
    assert answers(**token, Origin="http://evil.example") == 403
    assert answers(**token, Host="evil.example") == 403
    assert answers(**{"X-Token": "guessed"}) == 403
    assert answers() == 403
    for token_part, why in (
        ("", "This address lacks the part after #."),
        ("/#guessed", "Wrong token; open the address that the program printed."),
    ):
        with screen(browser, complaints="403") as window:
            window.page.goto(bytes_page.origin + token_part)
            expect(window.page.get_by_role("heading", name="Open the address that the program printed")).to_be_visible()
            expect(window.page.locator("#locked-why")).to_have_text(why)
            expect(window.page.locator("#all")).to_be_hidden()
            expect_accessible(window.page)


# ---- what the page makes of what it is told


def test_what_is_agreed_to_is_what_the_dialogue_shows(browser: Browser) -> None:
    """A sheet that changes behind an open dialogue is not agreed to with it."""
    controller = Scripted()
    with serving(controller) as address, screen(browser, complaints="409") as window:
        page = window.open(address)
        choose(page)
        page.get_by_role("button", name="Start").click()
        question = page.get_by_role("dialog", name="Do you agree?")
        expect(question).to_be_visible()
        controller.seen = "y"
        with page.expect_response("**/api/sheet"):
            controller.say("sheets")
        question.get_by_role("button", name="Agree").click()
        expect(page.locator("#status")).to_contain_text("the sheet has changed")
        assert controller.run is None and controller.asked == [("birthday", True)]


def test_whatever_is_said_is_shown_as_text(browser: Browser) -> None:
    """Sheet, reply, product, address, notice and error full of markup."""
    controller = Scripted(hostile=True)
    with serving(controller) as address, screen(browser) as window:
        page = window.open(address)
        choose(page)
        start_and_agree(page)
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        controller.say("notice", text=HOSTILE)
        controller.write("<b>hi</b>", " [bold]", "\n", HOSTILE)
        expect(page.get_by_label("The reply")).to_have_text(f"<b>hi</b> [bold]\n{HOSTILE}")
        controller.finish(f"<b>hi</b> {HOSTILE}", product=HOSTILE, url="javascript:alert(3)")
        expect(page.locator("li.offer")).to_contain_text(HOSTILE)
        expect(page.locator("li.offer")).to_contain_text("javascript:alert(3)")
        expect(page.locator("li.offer")).to_contain_text("Rp 1.385.000")
        expect(page.locator(".notices")).to_contain_text(HOSTILE)
        assert page.locator("main :is(script, a, b:not(.bar *), img, iframe)").count() == 0
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        controller.say("failed", error=HOSTILE)
        expect(page.locator("#reply")).to_contain_text(f"The run failed.{HOSTILE}")
        expect_to_fit(page)


@pytest.mark.parametrize(
    ("token", "seen"), [(" tea", "␣tea"), ("\n", "⏎"), ("\t", "⇥"), ("\u200b", "U+200b"), ("", "part")]
)
def test_a_token_is_seen_also_when_it_is_a_space(browser: Browser, token: str, seen: str) -> None:
    controller = Scripted(consent_needed=False)
    with serving(controller) as address, screen(browser) as window:
        page = window.open(address)
        choose(page)
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        controller.iteration(0, token)
        expect(page.locator(".figure.chosen .token")).to_contain_text(seen)


def test_progress_of_the_prompt_and_eighty_layers_fit_a_phone(browser: Browser) -> None:
    controller = Scripted(80, consent_needed=False)
    with serving(controller) as address, screen(browser, PHONE) as window:
        page = window.open(address)
        choose(page)
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        controller.say("prefill", done=64, of=256)
        expect(page.locator("#status")).to_have_text("The cloud is reading the prompt: 64 of 256 tokens")
        assert page.get_by_role("progressbar").evaluate("each => each.value / each.max") == 0.25
        controller.write("Gifts", " for")
        expect(page.locator("#status")).to_contain_text("2 tokens, 34.5 a second")
        expect(page.get_by_role("progressbar")).to_be_hidden()
        assert page.locator(".zone.cloud .bar.layer").count() == 79
        page.get_by_text("Every layer’s time").click()
        expect(page.locator(".each li")).to_have_count(80)
        expect(page.locator(".each li").last).to_contain_text("1.4 ms")
        expect_to_fit(page)


def test_banners_say_how_the_cloud_is(browser: Browser) -> None:
    controller = Scripted()
    with serving(controller) as address, screen(browser) as window:
        page = window.open(address)
        banners = page.locator("#banners")
        expect(banners).to_be_empty()
        controller.cloud_is("away", "no answer for 4 s")
        expect(banners).to_have_text("The cloud is away. Your device keeps trying. No answer for 4 s.")
        controller.cloud_is("wrong", "another split's")
        expect(banners).to_have_text("This is not the right cloud. Another split's.")
        choose(page)
        expect(page.get_by_role("button", name="Start")).to_be_disabled()
        controller.cloud_is("here")
        expect(banners).to_have_text("The cloud is back.")
        expect(page.get_by_role("button", name="Start")).to_be_enabled()
        controller.mode_off = True
        controller.say("reset")
        expect(banners).to_contain_text("Sanitising is off.")


# ---- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_every_state_fits_and_is_accessible(browser: Browser, size: tuple[int, int], scheme: str) -> None:
    """From empty to who saw what: nothing to scroll sideways, axe finds nothing serious."""
    controller = Scripted()
    name = f"{'phone' if size == PHONE else 'desktop'}-{scheme}"
    with serving(controller) as address, screen(browser, size, color_scheme=scheme) as window:
        page = window.open(address)

        def check(state: str) -> None:
            expect_to_fit(page)
            expect_accessible(page)
            window.shot(f"{name}-{state}")

        expect(page.get_by_text("Choose a prompt sheet to begin.")).to_be_visible()
        check("empty")
        choose(page, "insurer/cover")
        check("preview")
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("dialog")).to_contain_text("The third party insurer gets the reply")
        check("consent")
        page.get_by_role("button", name="Agree").click()
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        controller.write("Gifts", " for", " Rudi", " Hartono", ":", "\n", "1", ".", " A", " tea")
        expect(page.locator("#status")).to_contain_text("10 tokens")
        check("mid")
        controller.finish("Gifts for Rudi Hartono:\n1. A tea set\n2. A hiking backpack\n3. A painting set")
        expect(page.get_by_role("table", name="What each party holds after the run")).to_be_visible()
        expect(page.get_by_role("columnheader", name="The third party insurer")).to_have_count(1)
        check("done")
        page.emulate_media(reduced_motion="reduce")  # so that the page is there at once
        page.get_by_role("button", name="See who saw what").click()
        expect(page.get_by_role("heading", name="Who saw what")).to_be_focused()
        expect(page.get_by_role("heading", name="The most the provider could learn")).to_be_in_viewport()
        window.shot(f"{name}-saw")


def test_the_keyboard_alone_is_enough(browser: Browser, bytes_page: Program) -> None:
    """Choose a sheet, start, agree, stop; the focus is seen, and goes along when a button gives way to another."""
    with screen(browser) as window:
        page = window.open(bytes_page.address)
        focused = page.locator(":focus")

        def tab_to(name: str) -> None:
            for _ in range(30):
                page.keyboard.press("Tab")
                if focused.count() and name in focused.evaluate("each => (each.labels?.[0] ?? each).innerText"):
                    break
            assert focused.evaluate("each => getComputedStyle(each).outlineStyle") != "none"

        tab_to("Prompt sheet")
        page.keyboard.type("A gift for a wedding")
        expect(page.get_by_label("The system prompt")).to_be_visible()
        tab_to("Start")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Do you agree?")).to_be_focused()
        for _ in range(12):  # round and round: never behind the dialogue
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.matches('body, dialog *')")
        tab_to("Agree")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Stop")).to_be_focused()
        expect(page.locator("#status")).to_contain_text("is being written", timeout=BUSY_S)
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_contain_text("Stopped after")
        expect(page.get_by_role("button", name="Start")).to_be_focused()


def test_the_focus_waits_for_a_button_that_cannot_be_used_yet(browser: Browser) -> None:
    """The run is stopped while the sheet, which is asked for again when a run begins, is still on its way."""
    controller = Scripted(consent_needed=False)
    with serving(controller) as address, screen(browser) as window:
        page = window.open(address)
        choose(page)
        held = list[Route]()
        page.route("**/api/sheet", lambda route: held.append(route))
        page.get_by_role("button", name="Start").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Stop")).to_be_focused()
        controller.stop()
        start = page.get_by_role("button", name="Start")
        expect(start).to_be_visible()
        expect(start).to_be_disabled()
        for route in held:
            route.continue_()
        expect(start).to_be_focused()


def test_nothing_moves_for_who_does_not_want_it(browser: Browser) -> None:
    for motion, moves in (("no-preference", True), ("reduce", False)):
        controller = Scripted(consent_needed=False)
        with serving(controller) as address, screen(browser, reduced_motion=motion) as window:
            page = window.open(address)
            choose(page)
            page.get_by_role("button", name="Start").click()
            expect(page.get_by_role("button", name="Stop")).to_be_visible()
            controller.write("Gifts", " for")
            expect(page.locator(".stage")).to_have_attribute("data-phase", "decoding")
            running = page.evaluate("document.getAnimations().filter(each => each.playState === 'running').length")
            assert bool(running) == moves


def test_a_screen_reader_hears_what_happens_but_not_every_token(browser: Browser) -> None:
    controller = Scripted(consent_needed=False)
    with serving(controller) as address, screen(browser) as window:
        page = window.open(address)
        choose(page)
        page.evaluate(
            "window.heard = []; new MutationObserver(() => heard.push(document.getElementById('said').textContent))"
            ".observe(document.getElementById('said'), {childList: true})"
        )
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        controller.write(*(f"word{i} " for i in range(50)))
        controller.finish("words")
        expect(page.locator("#status")).to_contain_text("Done")
        assert page.evaluate("heard") == [
            "Started.", "The cloud is reading the prompt.", "The reply is being written.", "Done: 50 tokens, 1 offer.",
        ]  # fmt: skip
        assert page.locator("[aria-live], [role=status], [role=alert]").count() == 2  # what is said, the editor's error


# ---- the profile


def test_the_profile_is_edited(browser: Browser, own_page: Program) -> None:
    """Invalid TOML is shown and nothing is written; valid text is, as a whole; a file that has changed is not lost."""
    before = own_page.profile.read_text()
    with screen(browser, complaints="status of 4(09|22)") as window:
        page = window.open(own_page.address)
        choose(page)
        dialogue, text = page.get_by_role("dialog", name="Your profile"), page.get_by_label("The profile’s text")
        save, error = page.get_by_role("button", name="Save"), page.locator("#editor-error")

        page.get_by_role("button", name="Edit profile").click()
        expect(text).to_have_value(before)
        expect_accessible(page)
        window.shot("desktop-light-editor")
        text.fill(before + "\nthis is no TOML")
        save.click()
        expect(error).to_contain_text(re.compile(r"not valid TOML.*line", re.IGNORECASE))
        assert own_page.profile.read_text() == before

        page.keyboard.press("Escape")
        expect(error).to_contain_text("not saved")
        expect(dialogue).to_be_visible()
        text.fill(before.replace("Rp 400.000", "Rp 900.000"))
        save.click()
        expect(dialogue).to_be_hidden()
        expect(page.locator("li.field", has_text="Budget")).to_contain_text("Rp 900.000")
        assert own_page.profile.read_text() == before.replace("Rp 400.000", "Rp 900.000")
        assert stat.S_IMODE(own_page.profile.stat().st_mode) == 0o600
        assert [p.name for p in own_page.profile.parent.iterdir() if p.is_file()] == ["profile.toml"]

        page.get_by_role("button", name="Edit profile").click()
        expect(text).to_have_value(re.compile("900"))
        own_page.profile.write_text(before)
        text.fill("name = 'Mine'")
        save.click()
        expect(error).to_contain_text("changed since you opened it")
        assert own_page.profile.read_text() == before
        page.get_by_role("button", name="Load the file again").click()
        expect(text).to_have_value(before)
        page.get_by_role("button", name="Cancel").click()
        expect(dialogue).to_be_hidden()
        expect(page.get_by_role("button", name="Edit profile")).to_be_focused()


def test_a_history_is_kept_and_a_run_forgotten_by_keyboard_alone(browser: Browser) -> None:
    """Off until the person asks for it; then each run, what was sent of it, and the provider's copy deleted."""
    scripted = Scripted()
    with serving(scripted) as address, screen(browser) as window:
        page = window.open(address)
        past = page.locator("#past")
        expect(past).to_contain_text("No history is kept.")
        page.get_by_role("button", name="Keep a history").focus()
        page.keyboard.press("Enter")
        expect(past).to_contain_text("with tags instead of values")
        expect(past).to_contain_text("3 older runs are in the file.")
        page.locator("#past summary").focus()
        page.keyboard.press("Enter")
        expect(past.locator("mark", has_text="[NAME_1]").first).to_be_visible()
        expect_accessible(page)
        page.get_by_role("button", name="Have the provider forget this run").focus()
        page.keyboard.press("Enter")
        expect(past).to_contain_text("the cloud has deleted its record of this run")
        assert scripted.history.forgotten == ["ab" * 16]
        expect(page.get_by_role("button", name="Have the provider forget this run")).to_have_count(0)
        expect(page.locator("#past-title")).to_be_focused()


def test_a_history_full_of_markup_is_text_and_fits_a_phone(browser: Browser) -> None:
    """As every text that comes from elsewhere."""
    scripted = Scripted(hostile=True)
    scripted.history.keep()
    with serving(scripted) as address, screen(browser, PHONE) as window:
        page = window.open(address)
        page.locator("#past summary").click()
        expect(page.locator("#past dd", has_text="<script>alert(1)</script>")).to_be_visible()
        expect_to_fit(page)


def test_the_token_stays_out_of_what_is_sent(browser: Browser) -> None:
    """It is in the address's fragment and in a header; never in a URL, a cookie or storage."""
    with serving(Scripted()) as address, screen(browser) as window:
        asked = list[str]()
        window.page.on("request", lambda request: asked.append(request.url))
        page = window.open(address)
        choose(page)
        assert asked and not [url for url in asked if TOKEN in url.partition("#")[0]]
        assert not [url for url in asked if not url.startswith("http://127.0.0.1:")]
        assert not window.context.cookies()
        assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]


# ---- the last look

NOTES = "Compare the Vorbex lamp with Quillon glass, please. It would go in our small kitchen."


@pytest.fixture
def noted_page(own_page: Program) -> Program:
    """A profile whose open notes have two words that look personal."""
    text = own_page.profile.read_text()
    own_page.profile.write_text(re.sub(r"(?m)^notes = .*$", f'notes = "{NOTES}"  # kept', text))
    own_page.profile.chmod(0o640)
    return own_page


def test_the_last_look_hides_words_by_keyboard_alone(browser: Browser, noted_page: Program) -> None:
    """One in this run, one for ever, one that is typed. The profile keeps its comments and its mode."""
    with screen(browser) as window:
        page = window.open(noted_page.address)
        choose(page)
        prompt = page.get_by_label("The prompt as it leaves").first
        expect(prompt).to_contain_text("Vorbex lamp")
        expect(page.locator("#status")).to_contain_text("2 words may be personal")
        expect_accessible(page)
        page.get_by_role("button", name="Start").focus()
        page.keyboard.press("Enter")
        look = page.get_by_role("dialog", name="Look once more")
        expect(look).to_contain_text("2 words may be personal.")
        expect(look.get_by_role("heading")).to_be_focused()
        expect_accessible(page)
        window.shot("desktop-light-look")
        page.keyboard.press("Tab")
        expect(look.get_by_role("button", name="Hide Vorbex in this run")).to_be_focused()
        page.keyboard.press("Enter")
        expect(prompt).to_contain_text("the [PRIVATE_1] lamp with Quillon glass")
        expect(look.get_by_role("button", name="Hide Quillon in this run")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # always
        expect(prompt).to_contain_text("the [PRIVATE_1] lamp with [PRIVATE_2] glass")
        box = look.get_by_label("Hide another word")
        expect(box).to_be_focused()
        page.keyboard.type("nothing of the kind")
        page.keyboard.press("Enter")
        expect(look.get_by_role("alert")).to_contain_text("“nothing of the kind” is not in your words")
        expect(box).to_be_focused()
        box.press("ControlOrMeta+a")
        page.keyboard.type("Small kitchen.")
        page.keyboard.press("Enter")
        expect(prompt).to_contain_text("in our [PRIVATE_3].")
        expect(look).to_contain_text("“small kitchen” is hidden in this run.")
        expect_accessible(page)
        look.get_by_role("button", name="Send", exact=True).press("Enter")
        page.get_by_role("dialog", name="Do you agree?").get_by_role("button", name="Agree").press("Enter")
        expect(page.get_by_role("button", name="Stop")).to_be_visible(timeout=BUSY_S)
        page.get_by_role("button", name="Stop").press("Enter")
    edited = noted_page.profile.read_text()
    assert tomllib.loads(edited)["private_words"] == ["Quillon"] and 'our small kitchen."  # kept' in edited
    assert noted_page.profile.stat().st_mode & 0o777 == 0o640


def test_a_click_on_any_word_hides_it_and_undo_shows_it_again(browser: Browser, noted_page: Program) -> None:
    """A word that looks personal, and one that does not. What was let pass is not asked about twice."""
    with screen(browser) as window:
        page = window.open(noted_page.address)
        choose(page)
        prompt = page.get_by_label("The prompt as it leaves").first
        prompt.get_by_role("button", name="Quillon").click()
        expect(prompt).to_contain_text("with [PRIVATE_1] glass")
        prompt.get_by_text("kitchen", exact=True).click()
        expect(prompt).to_contain_text("our small [PRIVATE_2]")
        page.get_by_role("button", name="Show kitchen again").click()
        expect(prompt).to_contain_text("our small kitchen")
        for looks in (1, 0):
            page.get_by_role("button", name="Start").click()
            look = page.get_by_role("dialog", name="Look once more")
            if looks:
                expect(look).to_contain_text("1 word may be personal.")
                look.get_by_role("button", name="Send as it is").click()
            page.get_by_role("dialog", name="Do you agree?").get_by_role("button", name="Decline").click()
            expect(page.locator("#status")).to_have_text("You declined. Nothing was sent.")
        page.get_by_role("button", name="Start").click()
        expect(look).to_be_hidden()
        page.keyboard.press("Escape")
    assert "private_words" not in noted_page.profile.read_text()


def test_a_strict_page_sends_nothing_while_words_look_personal(
    browser: Browser, tiny_split: Splits, byte_cloud: Cloud, tmp_path: Path
) -> None:
    """It says how many, and runs once they are hidden."""
    with (
        program(tiny_split() / "edge", byte_cloud.address, tmp_path, "--sheet_dir", SHEETS, "--strict") as running,
        screen(browser, complaints="422") as window,
    ):
        running.profile.write_text(f'notes = "{NOTES}"\n')
        page = window.open(running.address)
        choose(page)
        page.get_by_role("button", name="Start").click()
        page.get_by_role("dialog", name="Look once more").get_by_role("button", name="Send as it is").click()
        page.get_by_role("dialog", name="Do you agree?").get_by_role("button", name="Agree").click()
        expect(page.locator("#status")).to_contain_text("2 of your words or numbers may be personal")


def test_nothing_can_be_sent_before_a_hidden_word_is_a_tag(browser: Browser, noted_page: Program) -> None:
    """While the prompt is prepared anew, Start and Send wait. If it cannot be, the page says so and the word stays."""
    with screen(browser, complaints="502") as window:
        page = window.open(noted_page.address)
        choose(page)
        held = list[Route]()
        page.route("**/api/sheet", lambda route: held.append(route))
        prompt = page.get_by_label("The prompt as it leaves").first
        prompt.get_by_text("kitchen", exact=True).click()
        expect(page.get_by_role("button", name="Start")).to_be_disabled()
        held.pop().continue_()
        expect(page.get_by_role("button", name="Start")).to_be_enabled()
        expect(prompt).to_contain_text("our small [PRIVATE_1]")
        page.get_by_role("button", name="Start").click()
        look = page.get_by_role("dialog", name="Look once more")
        look.get_by_role("button", name="Hide Vorbex in this run").click()
        expect(look.get_by_role("button", name="Send as it is")).to_be_disabled()
        held.pop().fulfill(status=502, json={"error": "the cloud is away"})
        expect(look).to_contain_text("the cloud is away")
        expect(look.get_by_role("button", name="Send as it is")).to_be_disabled()
        held.pop().continue_()
        expect(look).to_contain_text("The prompt cannot be prepared this way: the cloud is away")
        expect(look.get_by_role("button", name="Hide Vorbex in this run")).to_be_visible()
        expect(look.get_by_role("button", name="Send as it is")).to_be_enabled()
        look.get_by_role("button", name="Cancel").click()
        expect(page.locator("#status")).to_have_text("You declined. Nothing was sent.")


def test_a_word_is_hidden_as_the_prompt_writes_it(browser: Browser, own_page: Program) -> None:
    """A short one in another case, the first of a field, and a very long one."""
    long = "zorblat" * 40
    own_page.profile.write_text(f'recipient = "my friend Xi"\nnotes = "So Xi told us about {long}."\n')
    with screen(browser) as window:
        page = window.open(own_page.address)
        choose(page)
        prompt = page.get_by_label("The prompt as it leaves").first
        for word, sent in (("xi", "For: my friend [PRIVATE_1]"), ("so", "[PRIVATE_2] [PRIVATE_1] told")):
            page.get_by_label("Hide another word").fill(word)
            page.get_by_label("Hide another word").press("Enter")
            expect(prompt).to_contain_text(sent)
        prompt.get_by_role("button", name=long).click()
        expect(prompt).to_contain_text("about [PRIVATE_3].")
        expect(page.locator("#stays")).to_contain_text("Nothing else in it looks personal.")
