"""Claims about directories of sheets and of keys: as Kubernetes mounts them, as editors and file servers leave them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llama.cloud.allow_list import AllowList
from llama.edge.sheet_source import SheetSource
from llama.errors import PromptError
from llama.keys import make_keys
from llama.prompt import read_from_directory
from llama.sheets import read_all
from tests.support import ROOT, written
from tests.test_record import as_a_user

SHEET = 'questions = ["What?"]\n'
LEFT_BY_OTHERS = {
    "._birthday.toml": "\0\5\26\7", ".DS_Store": "\0\0\0\1Bud1", ".gitignore": "*~", ".git/config.toml": "not TOML [",
    ".svn/entries.toml": "12", "CVS/Entries.toml": "D", ".#birthday.toml": "not TOML [", "#birthday.toml#": "half a",
    "birthday.toml~": "not TOML [", ".birthday.toml.swp": "b0VIM", "4913": "", "Thumbs.db": "\0", "desktop.ini": "[",
    ".nfs000000000047": "\0", "@eaDir/birthday.toml@SynoEAStream": "\0", "@eaDir/birthday.toml": "not TOML [",
    "#recycle/old.toml": "not TOML [", "$RECYCLE.BIN/x.toml": "not TOML [", "__MACOSX/birthday.toml": "not TOML [",
    "lost+found/x.toml": "not TOML [", "System Volume Information/x.toml": "not TOML [", "README.md": "# Sheets",
    "README": "Sheets", "birthday.toml.bak": "not TOML [", "birthday.toml.orig": "not TOML [", ".toml": "not TOML [",
    "insurer/._cover.toml": "\0", "insurer/.git/x.toml": "not TOML [", "insurer/notes.txt": "",
}  # fmt: skip


class ConfigMap:
    """A directory as the kubelet writes it: files in a directory of their own, which one link names, and links to it.

    (AtomicWriter of k8s.io/kubernetes/pkg/volume/util: the new directory, ``..data_tmp``, which is renamed to
    ``..data``, new visible links, then what is stale goes.)
    """

    def __init__(self, directory: Path, files: dict[str, str]) -> None:
        self.directory, self.number = directory, 0
        directory.mkdir()
        self.update(files)

    def update(self, files: dict[str, str]) -> None:
        self.number += 1
        before = self.directory / "..data"
        stale = self.directory / before.readlink() if before.is_symlink() else None
        name = f"..2026_11_28_14_26_{self.number:02}.{self.number}"
        written(self.directory / name, files)
        (self.directory / "..data_tmp").symlink_to(name)
        (self.directory / "..data_tmp").rename(before)
        visible = {Path(file).parts[0] for file in files}
        for each in visible:
            if not (self.directory / each).is_symlink():
                (self.directory / each).symlink_to(f"..data/{each}")
        for link in self.directory.iterdir():
            if not link.name.startswith("..") and link.name not in visible:
                link.unlink()
        if stale is not None:
            shutil.rmtree(stale)


def ids_on_both_sides(directory: Path) -> list[str]:
    """The sheets that the cloud lists, which are those that the device lists, and each of which it can read."""
    cloud = list(read_all(str(directory)).sheets)
    assert [e.prompt_id for e in SheetSource(None, sheet_dir=str(directory)).entries()] == cloud
    assert all(read_from_directory(str(directory), each).prompt for each in cloud)
    return cloud


def test_a_directory_of_sheets_is_read_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    """Each sheet once, by the name that one sees; third parties' too, and the provider's own words, through links."""
    files = {"birthday.toml": SHEET, "system.txt": "Be kind.", "insurer/cover.toml": SHEET}
    mounted = ConfigMap(tmp_path / "sheets", files)
    assert ids_on_both_sides(mounted.directory) == ["birthday", "insurer/cover"]
    assert read_all(str(mounted.directory)).system == "Be kind."
    mounted.update(files | {"company.toml": SHEET})
    assert ids_on_both_sides(mounted.directory) == ["birthday", "company", "insurer/cover"]
    (tmp_path / "link").symlink_to("sheets")
    assert ids_on_both_sides(tmp_path / "link") == ["birthday", "company", "insurer/cover"]


def test_a_directory_that_is_swapped_all_the_time_is_read_as_it_was_at_one_moment(tmp_path: Path) -> None:
    """Two sheets of one version, never one of each, and no error, although either may be gone when it is read."""

    def version(n: int) -> dict[str, str]:
        return {f"{name}.toml": f'questions = ["{n}"]' for name in (("one", "two") if n % 2 else ("one", "three"))}

    mounted, stop = ConfigMap(tmp_path / "sheets", version(0)), threading.Event()

    def swap() -> None:
        n = 0
        while not stop.wait(0.03):
            n += 1
            mounted.update(version(n))

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        while mounted.number < 20:
            sheets = read_all(str(mounted.directory)).sheets.values()
            assert len({listed.text for listed in sheets}) == 1
            assert len(sheets) == 2
    finally:
        stop.set()
        swapping.join()


def test_a_link_that_leads_nowhere_for_a_moment_is_read_once_it_leads_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two steps of a replacement. The pause before the second try is when the replacement goes on."""
    (tmp_path / "birthday.toml").symlink_to("..data")
    monkeypatch.setattr(time, "sleep", lambda seconds: (tmp_path / "..data").write_text(SHEET))
    assert list(read_all(str(tmp_path)).sheets) == ["birthday"]


def test_what_others_leave_in_a_directory_of_sheets_is_passed_over(tmp_path: Path) -> None:
    """Hidden, or not a sheet by its name; also links to nothing, to themselves, and directories of such names."""
    directory = written(tmp_path, {"birthday.toml": SHEET, "insurer/cover.toml": SHEET, "system.txt": "Be kind."})
    written(directory, LEFT_BY_OTHERS)
    (directory / ".#company.toml").symlink_to("sari@laptop.4242:1764340000")  # an editor's lock
    (directory / "README.link").symlink_to("nowhere")
    (directory / "circle").symlink_to("circle")
    (directory / ".hidden.toml").mkdir()
    os.mkfifo(directory / "pipe")
    assert ids_on_both_sides(directory) == ["birthday", "insurer/cover"]


COPIES = (
    "~$a.toml", "#a.toml", "_a.toml", "a (1).toml", "a - Copy.toml", "a (conflicted copy).toml", "a[1].toml",
    "a\uff081\uff09.toml", "a_BACKUP_12.toml", "a_LOCAL_7.toml", "a.sync-conflict-20261129-081502-ABCDEFG.toml",
)  # fmt: skip
WASTE = (
    "Network Trash Folder", "Temporary Items", "RECYCLER", "Recycled", "found.000", "node_modules", "insurer (1)",
)  # fmt: skip


def test_copies_of_sheets_that_programs_made_are_passed_over_and_told_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By cloud and device alike: also third parties' copies, and directories where waste is kept."""
    good = {"birthday.toml": SHEET, "-.toml": SHEET, "insurer/cover.toml": SHEET, "system.txt": "Be kind."}
    written(tmp_path, good | {f"{place}/a.toml": "[" for place in WASTE})
    for name in COPIES:
        written(tmp_path, {name: "[", f"insurer/{name}": "["})
    (tmp_path / "Temporary Files").mkdir()  # nothing in it could be meant
    reported = list[str]()
    assert list(read_all(str(tmp_path), reported.append).sheets) == ["-", "birthday", "insurer/cover"]
    passed = [*WASTE, *COPIES, *(f"insurer/{name}" for name in COPIES)]
    end = "ignored: the name looks like a copy that a program made; rename it to use it"
    assert sorted(reported) == sorted(f"prompt file {tmp_path / name}: {end}" for name in passed)
    for _ in range(2):
        assert ids_on_both_sides(tmp_path) == ["-", "birthday", "insurer/cover"]
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(reported)


def test_a_copy_of_a_key_that_a_program_made_lets_nobody_in(tmp_path: Path) -> None:
    """It is told of once, whatever else changes; every name that a key can be given counts."""
    names = ("-", "0", "a", "--insecure", "a" * 40, "a-backup-12")
    for name in ("taken-off", *names):
        make_keys(name, "device", tmp_path)
    allowed, reported, now = tmp_path / "allowed", list[str](), 0.0
    written(allowed, {f"{name}.pub": (tmp_path / f"{name}.pub").read_text() for name in names})
    for name in COPIES:
        written(allowed, {name.replace(".toml", ".pub"): (tmp_path / "taken-off.pub").read_text()})
    listed = AllowList(allowed, reported.append, lambda: now)
    assert len(listed) == len(names) and len(reported) == len(COPIES)
    (allowed / "0.pub").unlink()
    now = 5.0
    listed.refresh()
    assert len(listed) == len(names) - 1 and len(reported) == len(COPIES)
    assert "--allow_dir: '~$a.pub': ignored: the name looks like a copy that a program made; rename it" in "".join(
        reported
    )


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("birthday.toml", lambda path: path.symlink_to("nowhere"), "a link to a missing file; create that file"),
        ("birthday.toml", lambda path: path.symlink_to("birthday.toml"), "cannot be read (Too many levels of symbolic"),
        ("birthday.toml", lambda path: path.mkdir(), "a directory; name a file"),
        ("birthday.toml", os.mkfifo, "not a regular file"),
        ("birthday.toml", lambda path: path.write_text("["), "not valid TOML"),
        ("Birthday.toml", lambda path: path.write_text(SHEET), "cannot be a prompt id"),
        ("birthday.TOML", lambda path: path.write_text(SHEET), "cannot be a prompt id"),
        ("birth_day.toml", lambda path: path.write_text(SHEET), "cannot be a prompt id"),
        ("Insurer/cover.toml", lambda path: path.write_text(SHEET), "cannot be a prompt id"),
        ("insurer", lambda path: path.symlink_to("."), "insurer cannot be listed (a link back to the"),
        ("system.txt", lambda path: path.symlink_to("nowhere"), "system.txt: a link to a missing file"),
        ("system.txt", lambda path: path.mkdir(), "system.txt: a directory"),
    ],
)  # fmt: skip
def test_what_is_a_sheet_by_its_name_and_is_none_is_an_error_that_names_it(
    tmp_path: Path, name: str, make: object, said: str
) -> None:
    """On both sides; a container's runtime makes a directory where a file to be mounted is missing."""
    written(tmp_path, {"gifts.toml": SHEET})
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)  # type: ignore[operator]
    for read in (read_all, lambda at: SheetSource(None, sheet_dir=at).entries()):
        with pytest.raises(PromptError) as refused:
            read(str(tmp_path))
        assert said in str(refused.value) and name.split("/")[0] in str(refused.value)


@pytest.mark.process
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    """A sheet, a third party's directory, the directory itself; what a file server keeps to itself is passed over."""
    directory = written(tmp_path / "sheets", {"gifts.toml": SHEET, "insurer/x.toml": SHEET, "lost+found/x": ""})
    (directory / "system.txt").write_text("Be kind.")
    code = """
import os, sys
from llama.sheets import read_all
for locked in sys.argv[2:]:
    mode = os.stat(locked).st_mode
    os.chmod(locked, 0)
    try: print(*read_all(sys.argv[1]).sheets)
    except Exception as err: print(err)
    finally: os.chmod(locked, mode)
"""
    locked = [str(directory / name) for name in ("lost+found", "gifts.toml", "insurer", ".")]
    command = [*as_a_user(), sys.executable, "-c", code, str(directory), *locked]
    reported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert reported[0] == "gifts insurer/x"
    assert f"{directory}/gifts.toml: cannot be read (Permission denied); name a file that you may read" in reported[1]
    assert f"{directory}/insurer cannot be listed (Permission denied)" in reported[2]
    assert f"{directory} cannot be listed (Permission denied); change its mode or owner" in reported[3]


def test_a_directory_of_keys_is_read_as_kubernetes_mounts_it_and_read_anew_when_it_is_swapped(tmp_path: Path) -> None:
    """Who is added is listed, who is taken off or has another key is not, and nobody else notices."""
    for name in ("phone", "tablet", "laptop"):
        make_keys(name, "device", tmp_path)
    make_keys("renewed", "device", tmp_path)
    public = {f"{name}.pub": (tmp_path / f"{name}.pub").read_text() for name in ("phone", "tablet", "laptop")}
    mounted, reported, now = ConfigMap(tmp_path / "allowed", {"phone.pub": public["phone.pub"]}), list[str](), 0.0
    allowed = AllowList(mounted.directory, reported.append, lambda: now)

    def names() -> list[str]:
        allowed.refresh()
        return sorted(each.name for key in allowed.keys if (each := allowed.find(key)))

    assert names() == ["phone"]
    mounted.update(public)
    assert names() == ["laptop", "phone", "tablet"]
    mounted.update({"phone.pub": (tmp_path / "renewed.pub").read_text(), "tablet.pub": public["tablet.pub"]})
    assert names() == ["renewed", "tablet"]
    assert not reported
    before = allowed.version
    mounted.update({"phone.pub": (tmp_path / "renewed.pub").read_text(), "tablet.pub": public["tablet.pub"]})
    assert names() == ["renewed", "tablet"] and allowed.version == before  # nobody's session ends for that


def test_what_others_leave_in_a_directory_of_keys_is_passed_over(tmp_path: Path) -> None:
    """Without a word; the ending counts in any case of letters."""
    make_keys("phone", "device", tmp_path)
    directory, reported = tmp_path / "allowed", list[str]()
    written(directory, {name.replace(".toml", ".pub"): text for name, text in LEFT_BY_OTHERS.items()})
    (directory / "PHONE.PUB").write_bytes((tmp_path / "phone.pub").read_bytes())
    (directory / ".#phone.pub").symlink_to("sari@laptop.4242:1764340000")
    assert len(AllowList(directory, reported.append)) == 1 and not reported
