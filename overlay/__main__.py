"""``python -m overlay``."""

from overlay.cli import main

main()
