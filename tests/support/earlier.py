"""An earlier version of this project: the last one whose kernel path had no FOU, from the history of this checkout."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

from tests.support.labs import need

ROOT = Path(__file__).parents[2]
PLACE = "OVERLAY_EARLIER"
"""Environment variable: where its tree is already. An emulated machine has no history."""
_SINCE = "overlay/linux/fou.py"
"""A file that it does not have, and every later one does."""


def extracted(folder: Path) -> bool:
    """Puts its tree into ``folder``; whether this checkout's history goes back so far."""
    words = ("log", "--diff-filter=A", "--format=%P", "--", _SINCE)
    found = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not found:
        return False
    with subprocess.Popen(["git", "archive", found[-1], "overlay"], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", f"--directory={folder}", "--extract"], stdin=archive.stdout, check=True)
    assert archive.returncode == 0
    return True


def installed(folder: Path) -> Path:
    """Its command, with an environment of its own in ``folder`` that shares this one's libraries; skips without it."""
    source = Path(os.environ.get(PLACE, folder / "tree"))
    if not source.exists():
        source.mkdir()
        need(*([] if extracted(source) else ["a checkout with its history"]))
    environment = folder / "venv"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # A directory that such a file names is not searched for others of its kind, so this checkout stays out.
    (packages / "earlier.pth").write_text(f"{source}\n{sysconfig.get_path('purelib')}\n")
    command = environment / "bin/overlay"
    command.write_text(f"#!{environment}/bin/python3\nfrom overlay.cli import main\nmain()\n")
    command.chmod(0o755)
    script = "import overlay, importlib.util as u; print(overlay.__file__, u.find_spec('overlay.linux.fou'))"
    shown = subprocess.run([environment / "bin/python3", "-Ic", script], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [f"{source}/overlay/__init__.py", "None"], shown.stdout
    return command
