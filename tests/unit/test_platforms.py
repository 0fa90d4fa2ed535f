"""The matrix of platforms: which cells a choice means, and layers that a machine can take into its memory."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.platforms import image
from tests.platforms.__main__ import main
from tests.platforms.cells import SOURCE, Cell, chosen, matrix
from tests.platforms.turns import Turns

FAULT = Path(image.__file__).with_name("only-6.1.patch")

needs_squashfs = pytest.mark.skipif(shutil.which("unsquashfs") is None, reason="needs squashfs-tools")


def test_every_cell_has_a_name_of_its_own() -> None:
    names = [cell.name for cell in matrix()]
    assert len(set(names)) == len(names)


def test_what_takes_longest_is_run_where_it_is_named() -> None:
    names = [cell.name for cell in matrix()]
    whole = ["whole-debian-12", "whole-debian-13"]
    assert [cell.name for cell in chosen(())] == [name for name in names if name not in whole]
    assert [cell.name for cell in chosen(("whole-*",))] == whole


def test_a_pattern_chooses_its_cells_alone() -> None:
    assert [cell.name for cell in chosen(("kernel-6.1", "etcd-*"))] == ["kernel-6.1", "etcd-3.5"]


@pytest.mark.parametrize("only", ["kernel-9.9", "kernel-6.1 kernl-6.12"])
def test_a_wrong_name_is_an_error_that_lists_the_cells(only: str) -> None:
    done = CliRunner().invoke(main, ["--only", only])
    assert done.exit_code == 2
    assert only.rsplit(maxsplit=1)[-1] in done.output
    assert all(cell.name in done.output for cell in matrix())


@needs_squashfs
def test_a_layer_has_its_files_where_they_belong(tmp_path: Path) -> None:
    root, layer = tmp_path / "root", tmp_path / "layer.squashfs"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_text("content")
    (root / "a/link").symlink_to("b/file")
    (root / "other").write_text("not asked for")
    image.pack([root / "a/b/file", root / "a/link"], layer, root)
    assert layer.stat().st_size % (128 << 20) == 0
    subprocess.run(["unsquashfs", "-d", str(tmp_path / "out"), str(layer)], check=True, capture_output=True, timeout=60)
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")} == {
        "a", "a/b", "a/b/file", "a/link",
    }  # fmt: skip
    assert (tmp_path / "out/a/link").read_text() == "content"


def test_the_seeded_fault_applies() -> None:
    subprocess.run(["git", "apply", "--check", str(FAULT)], cwd=SOURCE, check=True, timeout=60)


@needs_squashfs
def test_a_patch_is_a_layer_of_the_files_that_it_changes(tmp_path: Path) -> None:
    layer = image.patched(SOURCE, FAULT, tmp_path / "patched.squashfs")
    out = tmp_path / "out"
    subprocess.run(["unsquashfs", "-d", str(out), str(layer)], check=True, capture_output=True, timeout=60)
    changed = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert changed
    for path in changed:
        assert (out / path).read_text() != (Path("/") / path).read_text()


def test_with_a_patch_there_are_emulated_machines_alone() -> None:
    assert {cell.name.partition("-")[0] for cell in matrix(FAULT)} == {"kernel", "virtio", "services"}


def cell(name: str) -> Cell:
    return Cell(name, "", lambda log: 0, (), emulated=name.startswith("machine"))


def test_what_uses_this_machine_does_so_alone_and_nothing_waits_for_its_turn_that_need_not() -> None:
    turns = Turns([cell(name) for name in ("here", "here too", "machine", "machine too")])
    taken = [turns.take() for _ in range(3)]
    assert [each and each.name for each in taken] == ["here", "machine", "machine too"]
    late: list[Cell | None] = []
    waiting = threading.Thread(target=lambda: late.extend((turns.take(), turns.take())), daemon=True)
    waiting.start()
    for each in reversed(taken):
        assert late == []
        assert each is not None
        turns.ended(each)
    waiting.join(60)
    assert [each and each.name for each in late] == ["here too", None]


def test_all_that_is_not_emulated_uses_this_machine() -> None:
    assert {each.name.partition("-")[0] for each in matrix() if each.emulated} == {"kernel", "virtio", "services"}
