"""What others wrote, made fit to be read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.text import lines_of


@given(lines=st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line)))
def test_lines_end_at_newlines_alone_and_keep_every_byte(lines: list[bytes]) -> None:
    printed = b"".join(line + b"\n" for line in lines)
    for each in (printed, printed[:-1]):
        assert [line.encode("utf-8", "surrogateescape") for line in lines_of(each)] == lines
