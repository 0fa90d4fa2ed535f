"""A virtual machine by software emulation, that runs one job on a Debian kernel and is gone.

Time in it is counted in instructions (qemu's ``-icount``), a nanosecond each: whatever else this machine does, a
test in there is not late, and a benchmark repeats. It has one processor; with more the kernel does not boot that way.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.platforms.debian import run
from tests.platforms.kernel import Kernel

_GUEST = Path(__file__).with_name("guest.sh")
_IMAGE_BYTES = 2 << 30
"""Of the file system; what is not used of it takes no room."""

_ENDED = re.compile(r"^guest: the job ended with (\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Hardware:
    """What the machine is made of.

    Attributes:
        memory: in MiB.
        sleep: whether what it waits for takes time. Else its clock jumps to the next timer, so that a benchmark sees
            nothing but instructions; but so it does while this machine reads a file for it.
        devices: further arguments of qemu, for example network cards.
    """

    memory: int = 4096
    sleep: bool = True
    devices: tuple[str, ...] = ()


_DRIVE = "file={},format=raw,if=virtio,snapshot=on"

_PLAIN = Hardware()


@contextmanager
def packed(sources: Sequence[Path], folder: Path) -> Iterator[dict[Path, Path]]:
    """File system images of directories, by where they belong, for the length of a ``with`` statement.

    What a job reads again and again must not cross 9p each time: the interpreter's start took a minute.

    Raises:
        RuntimeError: mke2fs(8) failed.
    """
    images = {}
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for number, source in enumerate(sources):
            image = images[source] = Path(work, f"{number}.img")
            with image.open("wb") as out:
                out.truncate(_IMAGE_BYTES)
            run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(source), str(image))
        yield images


def hot(source: Path) -> tuple[Path, ...]:
    """What a job on a checkout reads all the time: that, compiled, and the interpreter's library."""
    run(sys.executable, "-m", "compileall", "-q", str(source))
    return source, Path(sysconfig.get_path("stdlib"))


def run_in(
    kernel: Kernel, job: str, log: Path, *, images: Mapping[Path, Path], hardware: Hardware = _PLAIN, timeout: float
) -> int:
    """Boots ``kernel``, runs a shell script as root on this machine's files, which it cannot change, and powers off.

    Args:
        job: the script.
        images: what to mount where, from :func:`packed`; writable, and as before afterwards.
        log: gets all that the machine and the job print.
        timeout: seconds of this machine's time after which it is killed.

    Returns:
        The job's exit status; 124 where it did not end in time, 125 where the machine ended before the job did.
    """
    with tempfile.NamedTemporaryFile("w", dir=log.parent, prefix=f"{secrets.token_hex(4)}-", suffix=".sh") as script:
        script.write(job)
        script.flush()
        words = (
            "console=ttyS0 panic=-1 quiet mitigations=off "
            f"overlay.guest={_GUEST} overlay.job={script.name} overlay.modules={kernel.modules} "
            f"overlay.mounts={','.join(map(str, images))}"
        )
        command = [
            *("qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max"),
            *("-icount", f"shift=0,sleep={'on' if hardware.sleep else 'off'}"),
            *("-smp", "1", "-m", str(hardware.memory)),
            *("-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-net", "none"),
            *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs), "-append", words),
            *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
            *(word for image in images.values() for word in ("-drive", _DRIVE.format(image))),
            *("-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"),
            *hardware.devices,
        ]
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
