"""Where everything is in etcd, below one prefix (``--services-prefix``, by default ``/overlay``).

=====================================  ====================================================  =======================
key                                    value                                                 lives
=====================================  ====================================================  =======================
``config``                             the cluster's configuration (``configuration.py``)    until changed
``objects/RESOURCE/NAMESPACE/NAME``    an object that people wrote, as a JSON document       until deleted
``objects/RESOURCE/NAME``              the same of a kind without namespaces                 until deleted
``objects/events/NAMESPACE/NAME``      a v1 Event                                            an etcd lease of an hour
``pods/NODE/ID``                       a v1 Pod document; ID: the container's                the node's etcd lease
``nodes/NODE``                         a v1 Node document without its Ready condition        until deleted
``alive/NODE``                         anything: the node is Ready while this is there       the node's etcd lease
``addresses/IP``                       who has this ClusterIP: ``NAMESPACE/NAME``            as long as its Service
``ports/PORT``                         who has this node port: ``NAMESPACE/NAME``            as long as its Service
``owners/IP``                          which node answers for an outside address             that node's etcd lease
``publishers/skydns``                  which node writes the SkyDNS records, and which       the records' etcd lease
=====================================  ====================================================  =======================

RESOURCE is the kind's plural as in URLs (``services``, ``endpointslices``); plurals are unique among our kinds. Names
and namespaces are DNS labels or subdomains, so no part of a key has a slash in it. Keys of other forms are somebody's
mistake: whoever reads them skips, counts and names them.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PREFIX = "/overlay"

_FOLDERS = ("objects", "pods", "nodes", "alive", "addresses", "ports", "owners", "publishers")


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """What an object's key tells. ``namespace`` is empty for kinds without namespaces."""

    resource: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class PodKey:
    """What a pod's key tells: which node registered it, and its container's id."""

    node: str
    id: str


class Keys:
    """Makes and reads the keys below one prefix.

    Args:
        prefix: without it, or with it, a slash at its end is the same.
    """

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        self.root = prefix.rstrip("/") + "/"

    @property
    def config(self) -> str:
        """The one key of the configuration."""
        return f"{self.root}config"

    def objects(self, resource: str, namespace: str = "") -> str:
        """The prefix of all objects of a resource, or of those in one namespace."""
        return f"{self.root}objects/{resource}/" + (f"{namespace}/" if namespace else "")

    def object(self, resource: str, namespace: str, name: str) -> str:
        """One object's key; ``namespace`` is empty for kinds without namespaces."""
        return self.objects(resource, namespace) + name

    def pods(self, node: str = "") -> str:
        """The prefix of all pods, or of one node's."""
        return f"{self.root}pods/" + (f"{node}/" if node else "")

    def pod(self, node: str, container_id: str) -> str:
        """One pod's key."""
        return self.pods(node) + container_id

    def node(self, node: str = "") -> str:
        """One node's record; without a name, the prefix of all."""
        return f"{self.root}nodes/{node}"

    def alive(self, node: str = "") -> str:
        """What says that a node is there; without a name, the prefix of all."""
        return f"{self.root}alive/{node}"

    def address(self, ip: str = "") -> str:
        """A ClusterIP's key; without an address, the prefix of all."""
        return f"{self.root}addresses/{ip}"

    def port(self, port: int = 0) -> str:
        """A node port's key, one for all protocols as in Kubernetes; without a number, the prefix of all."""
        return f"{self.root}ports/{port or ''}"

    def owner(self, ip: str = "") -> str:
        """The key of an outside address's owner; without an address, the prefix of all."""
        return f"{self.root}owners/{ip}"

    def publisher(self, what: str) -> str:
        """The key of the one node that writes for others to read; ``what``: ``skydns``."""
        return f"{self.root}publishers/{what}"

    def is_ours(self, key: str) -> bool:
        """Whether it begins as one of the table's."""
        folder, slash, rest = key.removeprefix(self.root).partition("/")
        return key == self.config or (folder in _FOLDERS and bool(slash and rest))

    def parse_object(self, key: str, namespaced: bool) -> ObjectKey | None:
        """Undoes :meth:`object`; None for a key of another form."""
        parts = self._below("objects", key)
        if len(parts) != (3 if namespaced else 2) or not all(parts):
            return None
        return ObjectKey(parts[0], parts[1] if namespaced else "", parts[-1])

    def parse_pod(self, key: str) -> PodKey | None:
        """Undoes :meth:`pod`; None for a key of another form."""
        parts = self._below("pods", key)
        return PodKey(*parts) if len(parts) == 2 and all(parts) else None

    def _below(self, folder: str, key: str) -> list[str]:
        return key[len(start) :].split("/") if key.startswith(start := f"{self.root}{folder}/") else []
