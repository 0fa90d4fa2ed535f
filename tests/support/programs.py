"""eBPF programs of others that ours meet, and ours as another version of them, for tests."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from overlay.datapath.kernel.programs import OBJECT
from overlay.linux.bpf_build import build

SOURCE = OBJECT.with_suffix(".c")
"""Our own."""

_MADE = Path(__file__).parents[2] / "build" / "programs"
"""Objects made before, by their source's digest: where the processor is emulated clang takes long, and dies of some."""

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

GUARD = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
/* An operator's firewall: nothing over UDP from 172.31.0.3. */
SEC("xdp") int guard(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct ethhdr *eth = (void *)(long)context->data;
	struct iphdr *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	return ip->protocol == 17 && ip->saddr == bpf_htonl(0xac1f0003) ? XDP_DROP : XDP_PASS;
}
"""

OTHER_PROGRAMS = ("#define OUTER_TTL 64", "#define OUTER_TTL 63")
"""What makes ours others on the same maps (:func:`variant`)."""

OTHER_MAPS = (
    *("1 << 17); /* twice the /24 subnets of a /8", "1 << 16); /* the /24 subnets of a /8"),
    *("OUTER_TTL 64", "OUTER_TTL 62"),
)
"""Others, with maps of another layout."""

BEFORE_PROOFS = (
    "train = skb->gso_size && (ip->protocol != IPPROTO_TCP || skb->len > 0xffff - sizeof(struct outer));",
    "train = 0;",
    "direct = !own->finish || asks || (!train && ip->ihl == 5 && is_proven(own, peer, ip->daddr));",
    "direct = ip->ihl == 5 || is_proven(own, peer, ip->daddr);",
    "int done = talk(skb, at, own, peer);",
    "int done = 0 ? talk(skb, at, own, peer) : NEXT_FILTER;",
)
"""A version that neither asks its peers for a proof nor gives one."""


def compiled(source: str, directory: Path) -> Path:
    """The object that clang makes of ``source``."""
    return _take(source, directory / "program.o", _compile)


def variant(directory: Path, *changes: str) -> Path:
    """Our programs as another version of them, in a new directory: each text replaced by the one that follows it."""
    directory.mkdir()
    return _take(_changed(*changes), directory / OBJECT.name, _build)


def make_beforehand() -> None:
    """Makes the objects that tests on emulated machines need."""
    _MADE.mkdir(parents=True, exist_ok=True)
    wanted = [(source, _compile) for source in (TAG, GUARD)]
    wanted += [(_changed(*changes), _build) for changes in (OTHER_PROGRAMS, OTHER_MAPS, BEFORE_PROOFS)]
    for source, make in wanted:
        if not _made(source).exists():
            with tempfile.TemporaryDirectory(dir=_MADE) as folder:  # somebody else may read there
                target = Path(folder, "program.o")
                make(source, target)
                target.rename(_made(source))


def _changed(*changes: str) -> str:
    text = SOURCE.read_text()
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _take(source: str, target: Path, make: Callable[[str, Path], None]) -> Path:
    if (made := _made(source)).exists():
        shutil.copy(made, target)
    else:
        make(source, target)
    return target


def _made(source: str) -> Path:
    return _MADE / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.o"


def _compile(source: str, target: Path) -> None:
    words = ["clang", "-O2", "-g", "-target", "bpf", f"-I/usr/include/{platform.machine()}-linux-gnu", "-x", "c"]
    subprocess.run([*words, "-c", "-", "-o", str(target)], input=source, text=True, check=True)


def _build(source: str, target: Path) -> None:
    """As ours are made."""
    copy = target.with_name(SOURCE.name)
    copy.write_text(source)
    build(target, copy)
