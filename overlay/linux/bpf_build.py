"""Compiles eBPF programs (``python -m overlay.linux.bpf_build [--check] NAME.bpf.c …``): for their authors, not nodes.

Beside a source stand its object, ``NAME.bpf.o``, and a manifest: which source it was made of, by which compiler, with
which flags. ``--check`` proves that they belong together: the same compiler must make the same bytes again; another
one, whose bytes may differ rightly, must compile the same source.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from overlay.errors import OverlayError

_ENDING = ".bpf.c"

FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpfel", "-mcpu=v2", "-fdebug-compilation-dir=.")
"""``-g`` for BTF, which describes the maps; ``-mcpu=v2``: 5.10's verifier follows its jumps best; little endian."""


class BuildError(OverlayError):
    """The object cannot be made, or is not what its manifest says."""


def build(target: Path, source: Path) -> dict[str, object]:
    """Compiles ``source`` to ``target`` and strips what only a debugger reads; returns what the manifest has to say.

    Raises:
        BuildError: clang or llvm-strip is missing or fails.
    """
    headers = f"/usr/include/{platform.machine()}-linux-gnu"  # Debian's place for asm/types.h
    _run("clang", *FLAGS, f"-I{headers}", "-c", source.name, "-o", str(target), directory=source.parent)
    _run("llvm-strip", "--strip-debug", str(target))
    return {
        "source": source.name,
        "source_sha256": _digest(source),
        "object_sha256": _digest(target),
        "compiler": _run("clang", "--version").splitlines()[0],
        "flags": list(FLAGS),
    }


def object_of(source: Path) -> Path:
    """Where the object that is made of ``source`` belongs."""
    return source.with_suffix(".o")


def manifest_of(source: Path) -> Path:
    """Where it is told what the object was made of."""
    return source.with_name("manifest.json")


def check(source: Path) -> str:
    """Compares source, object and manifest; returns a line that says how far that went.

    Raises:
        BuildError: they do not belong together.
    """
    made, manifest = object_of(source), json.loads(manifest_of(source).read_text())
    if manifest["source_sha256"] != _digest(source):
        raise BuildError("is newer than the object", about=source.name, remedy="run make bpf")
    if manifest["object_sha256"] != _digest(made):
        raise BuildError("is not the one of the manifest", about=made.name, remedy="run make bpf")
    with tempfile.TemporaryDirectory() as directory:
        rebuilt = build(Path(directory) / made.name, source)
    if rebuilt["compiler"] != manifest["compiler"] or rebuilt["flags"] != manifest["flags"]:
        return f"compiles; made by {manifest['compiler']}, so bytes were not compared with {rebuilt['compiler']}'s"
    if rebuilt["object_sha256"] != manifest["object_sha256"]:
        raise BuildError("this compiler makes other bytes of the same source", about=made.name, remedy="run make bpf")
    return "rebuilt, and the same to the last byte"


def main(arguments: list[str]) -> int:
    """``--check`` compares; without it objects and manifests are written."""
    compare = "--check" in arguments
    try:
        for argument in arguments:
            if argument == "--check":
                continue
            if not argument.endswith(_ENDING):
                raise BuildError("unknown argument", about=argument, remedy=f"name sources, *{_ENDING}, or --check")
            source = Path(argument).resolve()
            if compare:
                print(f"{object_of(source).name}: {check(source)}")
            else:
                print(_write(source))
    except OverlayError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


def _write(source: Path) -> str:
    target = object_of(source)
    manifest = build(target, source)
    manifest_of(source).write_text(json.dumps(manifest, indent=2) + "\n")
    return f"{target.name}: {target.stat().st_size} bytes, {manifest['compiler']}"


def _run(command: str, *arguments: str, directory: Path | None = None) -> str:
    if shutil.which(command) is None:
        raise BuildError("not found", about=command, remedy="install clang, llvm and libbpf-dev")
    done = subprocess.run(
        (command, *arguments), cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise BuildError(done.stderr.strip() or f"exit status {done.returncode}", about=command)
    return done.stdout


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
