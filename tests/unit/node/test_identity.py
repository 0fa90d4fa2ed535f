"""The node's id: the same after every boot, and another on every machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from threading import Thread

import pytest

from overlay.node import identity
from overlay.node.identity import default_node_id


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Where machine-id is looked for."""
    found = tmp_path / "machine-id", tmp_path / "dbus"
    monkeypatch.setattr(identity, "_MACHINE_ID", found)
    return found


def test_a_machine_goes_by_its_machine_id(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files[0].write_text("0123456789abcdef0123456789abcdef\n")
    first = default_node_id()
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert default_node_id() == first
    files[0].write_text("1123456789abcdef0123456789abcdef\n")
    assert default_node_id() != first


@pytest.mark.parametrize("text", [None, b"", b"\n", b"uninitialized\n", b"0" * 32 + b"\n"])
def test_what_images_have_instead_of_one_is_none(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, text: bytes | None
) -> None:
    """All machines made from the image would go by it: then rather the next file, and the host's name."""
    if text is not None:
        files[0].write_bytes(text)
    ids = set()
    for name in ("a", "b", "caf\udce9"):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        ids.add(default_node_id())
    assert len(ids) == 3
    files[1].write_text("0123456789abcdef0123456789abcdef\n")
    assert default_node_id() not in ids


def test_a_pipe_in_its_place_is_not_waited_for(files: tuple[Path, Path]) -> None:
    os.mkfifo(files[0])
    files[1].write_text("0123456789abcdef0123456789abcdef\n")
    told: list[str] = []
    reading = Thread(target=lambda: told.append(default_node_id()), daemon=True)
    reading.start()
    reading.join(30)
    files[0].unlink()
    assert told == [default_node_id()]
