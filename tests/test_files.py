"""Files that are read whole: regular ones, within a bound; nothing else is waited for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from llama.files import (
    MAX_JSON_VALUES,
    NotRegular,
    TooLarge,
    open_regular,
    read_anywhere,
    read_json,
    read_regular,
    shown,
)


def test_a_file_is_read_up_to_the_bound_and_not_a_byte_beyond(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for size in (0, 1, 1000):
        path.write_bytes(bytes(size))
        assert read_regular(path, 1000) == read_anywhere(str(path), 1000) == bytes(size)
    path.write_bytes(bytes(1001))
    for read in (read_regular, read_anywhere, read_json):
        with pytest.raises(TooLarge, match="larger than"):
            read(path, 1000)


def test_a_sparse_terabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLarge, match="larger than 2 MiB"):
        read_regular(tmp_path / "a", 2 << 20)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """A pipe that nobody writes to, devices, a socket, links to them; a directory is called one."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for name in ("pipe", "link", "zero", "socket"):
            with pytest.raises(NotRegular, match="not a regular file"):
                open_regular(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 1000)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="circle"):
        read_regular(tmp_path / "circle", 1000)


def test_a_json_text_of_too_many_values_is_refused(tmp_path: Path) -> None:
    """However few bytes they take there, each takes many in memory."""
    path = tmp_path / "a"
    path.write_bytes(b"[" + b"0," * (MAX_JSON_VALUES - 1) + b"0]")
    assert read_json(path, 1 << 30)
    path.write_bytes(b"[" + b"0," * MAX_JSON_VALUES + b"0]")
    with pytest.raises(TooLarge, match="more than 2000000 values"):
        read_json(path, 1 << 30)


def test_a_foreign_name_is_shown_cut_and_without_what_a_terminal_obeys() -> None:
    assert shown("layers.0.attention.wq.weight") == "layers.0.attention.wq.weight"
    assert shown("a\x1b[2J\n\u202e\x00é") == "a?[2J???é"
    assert len(shown("x" * 10_000)) == 81
