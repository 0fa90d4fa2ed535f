"""``overlay capture`` on interfaces that do not last."""

from __future__ import annotations

import os
import subprocess

import pytest

from overlay.lab.process import poll
from tests.netns.agents import OVERLAY, PATIENCE
from tests.support.machines import link, machine
from tests.support.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.mark.parametrize("change", ["link del eth0", "link set eth0 down"])
def test_an_interface_that_goes_ends_it_with_one_line(change: str) -> None:
    with machine(link("eth0", "172.31.0.1/24")) as name:
        command = ["nsenter", f"--net=/run/netns/{name}", OVERLAY, "capture", "--iface=eth0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as capture:
            try:
                wait_until_it_listens(Namespace(name))
                Namespace(name).batch(f"{change}\n")
                _, said = capture.communicate(timeout=PATIENCE)
            finally:
                capture.kill()
    assert said == "overlay: interface eth0: Network is down; start again once it is up\n"
    assert capture.returncode == 1


def wait_until_it_listens(place: Namespace) -> None:
    """Its socket is a line behind the heading."""
    assert poll(lambda: len(place.run("cat", "/proc/net/packet").splitlines()) > 1, PATIENCE)
