"""Chat templates run in a process with limits, which never outlives the one that started it by much."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import transformers.utils.chat_template_utils as oracle

from llama import rendering
from llama.rendering import CannotRender, render
from tests.hostile_checkpoints import CHATML, LOOP
from tests.processes import wait_until
from tests.support import ROOT

pytestmark = pytest.mark.process

DIALOG = [{"role": "user", "content": "Größe? 🙂 <|im_end|> {{ 1 }}\n"}, {"role": "assistant", "content": ""}]
TEMPLATES = [
    CHATML,
    "{% for m in messages %}\n  {{ m.role | upper }}: {{ m['content'] | trim }}\n{% endfor %}",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{{ '\\u00e9' }}{{ messages | length }}{{ bos_token }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_gives_what_transformers_gives(template: str) -> None:
    """White space, loop controls, undefined names, any characters, in several dialogues at once."""
    expected = [
        oracle.render_jinja_template([dialog], chat_template=template, add_generation_prompt=True)[0][0]
        for dialog in (DIALOG, DIALOG[:1])
    ]
    assert render(template, [DIALOG, DIALOG[:1]]) == expected


def test_a_failing_template_is_told_of_by_the_kind_of_its_error() -> None:
    for template, said in {
        "{{ raise_exception('a secret') }}": "it refuses the dialogue",
        "{% for": "TemplateSyntaxError",
        "{{ 'a' * 10 ** 10 }}": "MemoryError",
        LOOP: "it takes too much time or memory",
        "{% for a in range(99999) %}{{ 'x' * 99 }}{% endfor %}": "OverflowError",
        "x" * 300_000: "it is longer than 256 KiB",
        "\ud800": "it is not valid Unicode",
    }.items():
        with pytest.raises(CannotRender) as refused:
            render(template, [DIALOG])
        assert str(refused.value) == said
    assert rendering.MEMORY_BYTES <= 256 << 20


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_templates_process_too(by: signal.Signals, tmp_path: Path) -> None:
    """Nothing is left, and nothing but the interruption is said."""
    (tmp_path / "template").write_text(LOOP)
    program = (
        f"import sys; from llama.command import run; from llama import rendering\n"
        f"from pathlib import Path\nrendering.SECONDS = 30.0\n"
        f"def main() -> None:\n    rendering.render(Path({str(tmp_path / 'template')!r}).read_text(), [[]])\n"
        f"run(main, [])"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    parent = psutil.Process(process.pid)
    assert wait_until(lambda: any("template_program" in " ".join(child.cmdline()) for child in parent.children()))
    (child,) = parent.children()
    time.sleep(0.2)
    process.send_signal(by)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (130, 128 + by)
    assert "Traceback" not in err
    assert wait_until(lambda: not child.is_running())


def test_a_request_is_utf_8_in_any_locale() -> None:
    """A process of its own asks the locale how to read, unless it is told."""
    request: dict[str, object] = {
        "template": "{{ messages[0].content }}é",
        "variables": {},
        "dialogs": [[{"content": "日本 🎁"}]],
    }
    request |= {"characters": 1000, "memory": rendering.MEMORY_BYTES, "any": False}
    program = str(Path(rendering.__file__).with_name("template_program.py"))
    answer = subprocess.run(
        [sys.executable, "-I", "-X", "utf8=0", program, "5"], input=json.dumps(request, ensure_ascii=False).encode(),
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(answer.stdout) == {"texts": ["日本 🎁é"]}
