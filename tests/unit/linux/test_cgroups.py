"""In which cgroup a process is, as the kernel says it (cgroup_namespaces(7))."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.linux.cgroups import is_within

ROOT = Path("/sys/fs/cgroup/unified")


@pytest.mark.parametrize(
    ("told", "cgroup", "expected"),
    [
        ("0::/", "", True),
        ("0::/", "a", False),
        ("0::/a", "a", True),
        ("0::/a/b", "a", True),
        ("0::/ab", "a", False),
        ("1:cpu:/a\n0::/", "a", False),
        ("1:cpu:/a", "", False),
        ("0::/..", "", False),  # of a process that has come in from outside
        ("0::/../other", "", False),
        ("0::/..a", "", True),
    ],
)
def test_a_process_is_in_its_cgroup_and_those_above(told: str, cgroup: str, expected: bool) -> None:
    assert is_within(told.splitlines(), ROOT, ROOT / cgroup) is expected
