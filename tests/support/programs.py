"""eBPF programs of others, for tests that our programs meet."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from pathlib import Path

_MADE = Path(__file__).parents[2] / "build" / "programs"
"""Objects by their source's digest, made before: clang dies of some sources where the processor is emulated."""

TAG = """
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int tag(struct __sk_buff *skb)
{
	bpf_skb_vlan_push(skb, bpf_htons(0x8100), 3 << 13);
	return 0;
}
"""
"""Gives all that it sees a tag with VID 0, which says a priority and no VLAN (IEEE 802.1Q, 6.9)."""


def compiled(source: str, directory: Path) -> Path:
    """The object that clang makes of ``source``."""
    target = directory / "program.o"
    if (made := _made(source)).exists():
        shutil.copy(made, target)
    else:
        _compile(source, target)
    return target


def make_beforehand() -> None:
    """Makes the objects that an emulated machine cannot make itself."""
    _MADE.mkdir(parents=True, exist_ok=True)
    for source in (TAG,):
        _compile(source, _made(source))


def _made(source: str) -> Path:
    return _MADE / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.o"


def _compile(source: str, target: Path) -> None:
    words = ["clang", "-O2", "-g", "-target", "bpf", f"-I/usr/include/{platform.machine()}-linux-gnu", "-x", "c"]
    subprocess.run([*words, "-c", "-", "-o", str(target)], input=source, text=True, check=True)
