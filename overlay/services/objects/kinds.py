"""The catalogue of kinds: how each is called in URLs, in documents, on the command line, and who may write it."""

from __future__ import annotations

from dataclasses import dataclass

from overlay.services.objects.schema import Schema, schema_of

READ = ("get", "list", "watch")
WRITE = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
SINGLY = tuple(verb for verb in WRITE if verb != "deletecollection")
"""Of namespaces: nobody deletes all of them by one request."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of objects.

    Attributes:
        group: empty for the core group.
        resource: plural, as in URLs and keys.
        verbs: what the API lets people do.
        status: whether there is a ``/status`` subresource, outside of which ``status`` is the system's.
        advertised: whether discovery names it; a kind that nothing acts on is served to nobody.
        generation: whether ``metadata.generation`` counts changes of its spec.
        view: a picture of what is; nobody writes it.
        ttl: seconds that an object lives after it was written last; 0: until it is deleted.
    """

    group: str
    version: str
    name: str
    resource: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    namespaced: bool = True
    verbs: tuple[str, ...] = WRITE
    status: bool = False
    advertised: bool = True
    generation: bool = False
    view: bool = False
    ttl: int = 0

    @property
    def api_version(self) -> str:
        """As in documents: ``v1``, ``discovery.k8s.io/v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        """As people may say on the command line."""
        return self.name.lower()

    @property
    def qualified_resource(self) -> str:
        """As errors name it: ``services``, ``ingresses.networking.k8s.io``."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    @property
    def definition(self) -> str:
        """The long name of its schema."""
        package = self.group.removesuffix(".k8s.io") or "core"
        return f"io.k8s.api.{package}.{self.version}.{self.name}"

    @property
    def schema(self) -> Schema:
        """What its documents hold."""
        return schema_of(self.definition)


POD = Kind("", "v1", "Pod", "pods", ("po",), ("all",), verbs=READ, status=True, view=True)
SERVICE = Kind("", "v1", "Service", "services", ("svc",), ("all",), status=True)
ENDPOINTS = Kind("", "v1", "Endpoints", "endpoints", ("ep",))
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", ("ns",), namespaced=False, verbs=SINGLY, status=True)
NODE = Kind("", "v1", "Node", "nodes", ("no",), namespaced=False, verbs=READ, status=True, view=True)
EVENT = Kind("", "v1", "Event", "events", ("ev",), ttl=3600)  # kube-apiserver --event-ttl
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", generation=True)
_NETWORKING = "networking.k8s.io"
INGRESS = Kind(
    _NETWORKING, "v1", "Ingress", "ingresses", ("ing",), status=True, generation=True, advertised=False
)  # fmt: skip
INGRESS_CLASS = Kind(
    _NETWORKING, "v1", "IngressClass", "ingressclasses", namespaced=False, generation=True, advertised=False
)
NETWORK_POLICY = Kind(
    _NETWORKING, "v1", "NetworkPolicy", "networkpolicies", ("netpol",), generation=True, advertised=False
)

KINDS = (
    POD, SERVICE, ENDPOINTS, NAMESPACE, NODE, EVENT, ENDPOINT_SLICE, INGRESS, INGRESS_CLASS, NETWORK_POLICY,
)  # fmt: skip
"""In the order of discovery, in which ``kubectl get all`` prints: pods before Services."""

BY_RESOURCE = {kind.resource: kind for kind in KINDS}
BY_NAME = {(kind.api_version, kind.name): kind for kind in KINDS}
