"""Networks that lose, delay, repeat and reorder, by the kernel's own emulator (netem), under every pair of datapaths.

pod1 ── node1 ── eth0 ── n1 ┐ switch ┌ n2 ── eth0 ── node2 ── pod2      netem on n1 and n2, towards the nodes
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.transfer import transfer
from tests.support.tunnels import Node, attached, lost, nodes, peers_of, ping, run, until

pytestmark = pytest.mark.root

PAIRS = {"kernel": ("kernel", "kernel"), "userspace": ("userspace", "userspace"), "mixed": ("kernel", "userspace")}

BAD = {
    "delay and reordering": "delay 10ms 5ms reorder 10% 50%",
    "loss and duplicates": "delay 2ms loss 2% duplicate 2%",
}


def has_netem() -> bool:
    """Tried in a namespace that is gone with the process."""
    words = ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    """Two nodes with datapaths. Packets cross at MTU size, else netem would lose 64 KB at once."""
    if not has_netem():
        pytest.skip("this kernel has no netem")
    with nodes(2) as (one, two):
        for node in (one, two):
            node("ethtool -K eth0 tso off gso off tx-udp-segmentation off")
        for node, kind in zip((one, two), PAIRS[request.param], strict=True):
            node.start(kind, peers=peers_of(node, (one, two)))
        for node, kind in zip((one, two), PAIRS[request.param], strict=True):
            if kind == "kernel":
                until(lambda node=node: attached(node), "programs")  # type: ignore[misc]
        until(lambda: lost(ping(one, two, "-c 1")) == 0, "the first ping")
        yield one, two


@pytest.mark.parametrize("fault", BAD)
def test_every_byte_arrives(pair: tuple[Node, Node], fault: str, tmp_path: Path) -> None:
    one, two = pair
    for node in pair:
        run(f"tc qdisc replace dev n{node.number} root netem limit 10000 {BAD[fault]}", node.switch)
    transfer(one, two, tmp_path, 500_000)
    transfer(two, one, tmp_path, 100_000)
    for node in pair:
        told = run(f"tc -s qdisc show dev n{node.number}", node.switch)
        assert "netem" in told
        counters = node.counters()
        # What is lost on the way is the network's; no datapath takes a late or repeated datagram for a wrong one.
        wrong = {
            name: counters[name]
            for name in ("drop_malformed", "drop_checksum", "drop_outer_source", "drop_inner_source")
        }
        assert not any(wrong.values()), wrong


def test_loss_is_neither_hidden_nor_made_worse(pair: tuple[Node, Node]) -> None:
    """Ten in a hundred datagrams lost each way: of echoes, a fifth; and none afterwards."""
    one, two = pair
    for node in pair:
        run(f"tc qdisc replace dev n{node.number} root netem loss 10%", node.switch)
    missing = lost(ping(one, two, "-c 1000 -i 0.002"))
    assert 100 < missing < 300, missing
    for node in pair:
        run(f"tc qdisc delete dev n{node.number} root", node.switch)
    assert lost(ping(one, two, "-c 20 -i 0.01")) == 0
