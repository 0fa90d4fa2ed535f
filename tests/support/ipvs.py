"""Whether this kernel has IPVS."""

from __future__ import annotations

import pytest

from overlay.errors import NodeError
from overlay.linux.ipvs import Ipvs


def needs_ipvs() -> None:
    """Skips the test where it has none. A cell of the platforms' matrix has a kernel that does, and lets none skip."""
    try:
        Ipvs().__exit__()
    except NodeError as error:
        pytest.skip(str(error))
