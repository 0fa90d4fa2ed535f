"""What a Docker must be told so that its containers ask this node for names. Pure.

Containers on Docker's bridge get it as their resolv.conf; on networks of their own, Docker's resolver at 127.0.0.11
answers the names of that network's containers itself and asks this server for all others.
"""

from __future__ import annotations

from collections.abc import Mapping

from overlay.node.docker.daemon import Told

NDOTS = 5
"""Dots that a name must have to be tried before the search list's: as in Kubernetes' pods, ``redis.default.svc`` has
fewer."""


def options(server: str, domain: str, namespace: str, told: Told) -> Mapping[str, str]:
    """Options by the names that flannel's script gives such.

    Args:
        server: where names are answered.
        namespace: of containers that say nothing else: what their short names are looked for in.
        told: what it is told anyway; what its file says is not said again, as Docker refuses an option twice.
    """
    search = (f"{namespace}.svc.{domain}", f"svc.{domain}", domain)
    wanted = {
        "dns": [f"--dns={server}"],
        "dns-search": [f"--dns-search={each}" for each in search],
        "dns-opts": [f"--dns-opt=ndots:{NDOTS}"],
    }
    words = [word for key, words in wanted.items() if key not in told.file for word in words]
    return {"DOCKER_OPT_NAMES": " ".join(words)} if words else {}
