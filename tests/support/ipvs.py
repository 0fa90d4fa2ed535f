"""Whether this kernel has IPVS."""

from __future__ import annotations

import os

import pytest

from overlay.errors import NodeError
from overlay.linux.ipvs import Ipvs


def needs_ipvs() -> None:
    """Skips the test where it has none, or fails it where OVERLAY_REQUIRE_ALL=1."""
    try:
        Ipvs().__exit__()
    except NodeError as error:
        complain = pytest.fail if os.environ.get("OVERLAY_REQUIRE_ALL") == "1" else pytest.skip
        complain(str(error))
