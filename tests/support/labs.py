"""What tests on labs share: the type of the ``make_lab`` fixture, and skipping with what is missing."""

from __future__ import annotations

import os
import shutil
from typing import Any, Protocol

import pytest

from overlay.lab.cluster import Lab


class MakeLab(Protocol):
    """Makes a lab from the fields of a LabSpec; the fixture removes it after the test."""

    def __call__(self, **fields: Any) -> Lab: ...


def need(*missing: str) -> None:
    """Skips the test if anything is missing; fails it where OVERLAY_REQUIRE_ALL=1 says that all has to be there."""
    if missing:
        complain = pytest.fail if os.environ.get("OVERLAY_REQUIRE_ALL") == "1" else pytest.skip
        complain(f"needs {', '.join(missing)}")


def need_programs(*names: str) -> None:
    """The same for programs on the PATH."""
    need(*(name for name in names if shutil.which(name) is None))
