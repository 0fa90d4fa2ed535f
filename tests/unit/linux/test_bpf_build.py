"""Every shipped eBPF object is what its source says."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

import overlay
from overlay.linux import bpf_build
from overlay.linux.bpf_build import manifest_of, object_of

SOURCES = sorted(Path(overlay.__file__).parent.rglob("*.bpf.c"))

each_source = pytest.mark.parametrize("source", SOURCES, ids=[source.name for source in SOURCES])


def test_make_bpf_finds_all_of_them() -> None:
    root = Path(overlay.__file__).parent.parent
    found = {*root.glob("overlay/*/*/*.bpf.c"), *root.glob("overlay/*/*/*/*.bpf.c")}
    assert found == set(SOURCES)


@each_source
def test_the_object_belongs_to_the_source(source: Path) -> None:
    manifest = json.loads(manifest_of(source).read_text())
    assert manifest["source"] == source.name
    assert manifest["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert manifest["object_sha256"] == hashlib.sha256(object_of(source).read_bytes()).hexdigest()
    assert manifest["flags"] == list(bpf_build.FLAGS)


@pytest.mark.skipif(shutil.which("clang") is None or shutil.which("llvm-strip") is None, reason="needs clang and llvm")
@each_source
def test_the_object_can_be_rebuilt(source: Path) -> None:
    outcome = bpf_build.check(source)
    same_compiler = "the same to the last byte" in outcome
    assert same_compiler or "bytes were not compared" in outcome


@pytest.mark.skipif(shutil.which("clang") is None or shutil.which("llvm-strip") is None, reason="needs clang and llvm")
def test_an_object_of_another_source_is_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "small.bpf.c"
    source.write_text("int one(void) { return 1; }\n")
    assert bpf_build.main([str(source)]) == 0
    assert bpf_build.main(["--check", str(source)]) == 0
    source.write_text("int one(void) { return 2; }\n")
    assert bpf_build.main(["--check", str(source)]) == 1
    assert "small.bpf.c: is newer than the object; run make bpf" in capsys.readouterr().err


def test_wrong_arguments_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert bpf_build.main(["--chek"]) == 1
    assert capsys.readouterr().err == "--chek: unknown argument; name sources, *.bpf.c, or --check\n"


@each_source
def test_no_path_of_the_builder_is_in_the_object(source: Path) -> None:
    content = object_of(source).read_bytes()
    assert b"/home" not in content
    assert str(source.parent).encode() not in content
