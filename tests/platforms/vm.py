"""A machine by software emulation, that runs one job on a Debian kernel and is gone.

Time in it is counted in instructions (qemu's ``-icount``), and what it would wait for takes none: its clock jumps to
the next timer. So a test in there is not late whatever else this machine does, waits cost nothing, and a benchmark
repeats. That needs a machine in which nothing is waited for but timers: it has no disk, its files are in its memory
(see :mod:`tests.platforms.image`), and it has one processor.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.platforms.kernel import Kernel, archive

_GUEST = Path(__file__).with_name("guest.sh")

_ENDED = re.compile(r"^guest: the job ended with (\d+)\s*$", re.MULTILINE)

WHOLE = "max"
"""A processor with all that qemu can emulate."""

QUICK = f"{WHOLE},-erms,-smap,-smep,-la57"
"""The same without what costs it more than it costs real hardware: moving bytes one at a time (erms), an end of its
translated block (smap, smep), and one more level of page tables."""

_WORDS = (
    "console=ttyS0 panic=-1 quiet mitigations=off nokaslr audit=0 apparmor=0 init_on_alloc=0 nowatchdog tsc=reliable "
    "no_timer_check random.trust_cpu=on net.ifnames=0"
)


@dataclass(frozen=True)
class Hardware:
    """What the machine is made of.

    Attributes:
        memory: in MiB.
        processor: WHOLE or QUICK. What is counted differs: the kernel copies a byte an instruction on WHOLE, as on what
            is built today (``rep movsb``), and eight on QUICK.
        cards: virtio-net cards eth0, eth1, …, with two queues and all offloads, joined by a bridge of this machine's.
            What is under way on that bridge is waited for, so then waits take time.
        hubs: so many networks of three virtio-net cards each, eth0 to eth2 on the first, without offloads: a hub that
            is part of the machine joins them, so what is under way waits for the machine's own clock alone.
    """

    memory: int = 4096
    processor: str = QUICK
    cards: int = 0
    hubs: int = 0


PLAIN = Hardware()


def run_in(
    kernel: Kernel, job: str, log: Path, *, layers: Sequence[Path], hardware: Hardware = PLAIN, timeout: float
) -> int:
    """Boots ``kernel``, runs a shell script as root, and powers off.

    Args:
        job: the script.
        layers: of the root, the lowest first (see :mod:`tests.platforms.image`); what is written is gone afterwards.
        log: gets all that the machine and the job print.
        timeout: seconds of this machine's time after which it is killed.

    Returns:
        The job's exit status; 124 where it did not end in time, 125 where the machine ended before the job did.
    """
    with tempfile.TemporaryDirectory(dir=log.parent, prefix="machine-") as work:
        command = [
            *("qemu-system-x86_64", "-machine", "pc,nvdimm=on"),
            *("-accel", "tcg,thread=single", "-cpu", hardware.processor),
            *("-icount", f"shift=0,sleep={'on' if hardware.cards else 'off'}", "-rtc", "clock=vm"),
            *("-smp", "1", "-m", f"{hardware.memory},slots=16,maxmem=64G"),
            *("-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-net", "none"),
            *("-kernel", str(kernel.image), "-initrd", str(_initial_disk(kernel, job, Path(work)))),
            *("-append", _WORDS),
            *_in_memory((*layers, kernel.modules)),
            *("-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"),
            *_cards(hardware.cards),
            *_on_hubs(hardware.hubs),
        ]
        if hardware.cards:
            command = ["unshare", "--net", "sh", "-euc", _BRIDGE, "sh", str(hardware.cards), *command]
        with log.open("wb") as out:
            try:
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    timeout=timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return 124
    ended = _ENDED.search(log.read_text(errors="replace").replace("\r", ""))
    return int(ended.group(1)) if ended else 125


_BRIDGE = """
cards=$1; shift
sysctl -qw net.ipv6.conf.default.disable_ipv6=1 || true
ip link add br0 up type bridge
while [ "$cards" -gt 0 ]; do
    cards=$((cards - 1))
    ip tuntap add tap$cards mode tap multi_queue vnet_hdr
    ip link set tap$cards master br0 up
done
exec "$@"
"""
"""In a network namespace that is gone with the machine."""


def _cards(count: int) -> list[str]:
    words = []
    for number in range(count):
        words += ["-netdev", f"tap,id=card{number},ifname=tap{number},script=no,downscript=no,queues=2"]
        mac = f"52:54:00:00:00:{number + 1:02x}"
        words += ["-device", f"virtio-net-pci,netdev=card{number},mac={mac},mq=on,vectors=6,rx_queue_size=1024"]
    return words


HUB_CARDS = 3
_GATHERING = 20_000
"""Nanoseconds for which a card on a hub gathers packets before it sends them: real ones wait before they interrupt."""


def _on_hubs(count: int) -> list[str]:
    words = []
    for number in range(count * HUB_CARDS):
        words += ["-netdev", f"hubport,id=port{number},hubid={number // HUB_CARDS}"]
        mac = f"52:54:00:00:01:{number + 1:02x}"
        timing = f"tx=timer,x-txtimer={_GATHERING}"  # by the machine's clock; otherwise it is done beside it
        words += ["-device", f"virtio-net-pci,netdev=port{number},mac={mac},{timing},rx_queue_size=1024"]
    return words


def _initial_disk(kernel: Kernel, job: str, work: Path) -> Path:
    """The kernel's own, and behind it /machine with the job: the kernel unpacks one archive after the other."""
    machine = work / "tree/machine"
    machine.mkdir(parents=True)
    shutil.copy(_GUEST, machine)
    (machine / "job.sh").write_text(job)
    archive(work / "tree", work / "job.cpio")
    disk = work / "initrd"
    disk.write_bytes(kernel.initramfs.read_bytes() + (work / "job.cpio").read_bytes())
    return disk


def _in_memory(images: Sequence[Path]) -> list[str]:
    """Each file as a module of persistent memory, /dev/pmem0 the first; mapped, so what is not read takes no room."""
    words = []
    for number, image in enumerate(images):
        place = f"mem-path={image},size={image.stat().st_size}"
        words += ["-object", f"memory-backend-file,id=layer{number},{place},share=on,readonly=on"]
        words += ["-device", f"nvdimm,id=nvdimm{number},memdev=layer{number},unarmed=on"]
    return words
