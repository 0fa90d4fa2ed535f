"""The ``overlay`` command: one file a subcommand, loaded when it is called, so that each starts fast and lean."""

from __future__ import annotations

from overlay.cli.main import main

__all__ = ["main"]
