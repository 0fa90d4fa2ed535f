"""eBPF programs of others, for tests that our programs meet."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def compiled(source: str, directory: Path) -> Path:
    """The object that clang makes of ``source``."""
    target = directory / "program.o"
    words = ["clang", "-O2", "-g", "-target", "bpf", f"-I/usr/include/{platform.machine()}-linux-gnu", "-x", "c"]
    subprocess.run([*words, "-c", "-", "-o", str(target)], input=source, text=True, check=True)
    return target
