"""Network namespaces for etcd members to live in, where packets can be made to vanish without a word."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support.etcd import Place, do_without, require


@contextmanager
def namespaces(count: int) -> Iterator[list[Place]]:
    """Places for members, each in a network namespace of its own, joined by a bridge here, over IPv6.

    here  ovetcd-XXXX (bridge) fd00:77:XXXX::1
            ├── ovetcd-XXXX-0 ──veth── e0 fd00:77:XXXX::10
            └── ovetcd-XXXX-1 ──veth── e0 fd00:77:XXXX::11  …
    """
    if os.geteuid() != 0:
        do_without("root, for network namespaces")
    require("ip", "nft")
    tag = uuid.uuid4().hex[:4]
    bridge, network = f"ovetcd-{tag}", f"fd00:77:{tag}::"
    with ExitStack() as stack:

        def ip(command: str, undo: str = "") -> None:
            subprocess.run(["ip", *command.split()], check=True)
            if undo:
                stack.callback(subprocess.run, ["ip", *undo.split()], check=True)

        ip(f"link add {bridge} type bridge mcast_snooping 0", undo=f"link del {bridge}")
        ip(f"addr add {network}1/64 dev {bridge} nodad")
        ip(f"link set {bridge} up")
        places = []
        for number in range(count):
            name = f"{bridge}-{number}"
            ip(f"netns add {name}", undo=f"netns del {name}")
            # Deleted by name: sockets that die slowly keep a namespace, and its end of the pair, longer than its name.
            ip(f"link add {name} type veth peer name e0 netns {name}", undo=f"link del {name}")
            ip(f"link set {name} master {bridge} up")
            ip(f"-n {name} addr add {network}1{number}/64 dev e0 nodad")
            ip(f"-n {name} link set lo up")
            ip(f"-n {name} link set e0 up")
            places.append(Place(f"[{network}1{number}]", ("nsenter", f"--net=/run/netns/{name}")))
        yield places


def cut(place: Place, *others: Place) -> None:
    """Drops every packet between a member and ``others``, or all the world if none are named."""
    commands = ["add table inet cut"]
    for hook, side in (("input", "saddr"), ("output", "daddr")):
        commands.append(f"add chain inet cut {hook} {{ type filter hook {hook} priority 0; }}")
        commands += [f"add rule inet cut {hook} ip6 {side} {other.host.strip('[]')} drop" for other in others]
        commands += [] if others else [f"add rule inet cut {hook} drop"]
    subprocess.run([*place.enter, "nft", "; ".join(commands)], check=True)


def mend(place: Place) -> None:
    """Undoes :func:`cut`."""
    subprocess.run([*place.enter, "nft", "delete table inet cut"], check=True)
