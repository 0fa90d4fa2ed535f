"""What a test may ask of a machine that has other things to do as well.

With OVERLAY_STRICT=1, for a machine that has not, the limits are those that the project promises.
"""

from __future__ import annotations

import os

STRICT = os.environ.get("OVERLAY_STRICT") == "1"


def limit(promised: float, busy: float) -> float:
    """``busy`` is far above ``promised``, and still below what the fault would cost that the test is there for."""
    return promised if STRICT else busy
