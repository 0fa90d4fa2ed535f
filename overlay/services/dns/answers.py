"""What a name answers: from a question and what is known to the records, and why there are none. Pure.

Kubernetes' DNS specification 1.1.0; where it is silent, CoreDNS (``plugin/kubernetes/kubernetes.go``,
``reverse.go``, ``plugin/backend_lookup.go``). From CoreDNS it differs where that would deny a name that exists:
``dns.<domain>``, and the version's and the server's names for types that they do not have, are without records, not
without existence (RFC 8020), and so are no pod's name with labels in front, and ``_tcp`` in front of a Service that has
named ports. A TXT question about a name that does not exist is answered so.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from overlay.services.dns.names import Address, Asks, Wanted, below, reversed_address, undashed, wanted
from overlay.services.dns.records import Answer, Code, Labels, Question, Record, Records, Tag, absolute, lowered
from overlay.services.dns.zone import TTL, Entry, Network, Pods, Port, Zone, service_tag

VERSION = "1.1.0"
VERSION_TTL = 28800

MOST_CNAMES = 8
"""One after another, as CoreDNS follows them."""

_TRANSFERS = ("AXFR", "IXFR")


def answer(zone: Zone, question: Question) -> Answer | None:
    """The answer to a question; None where it is not about this cluster, and somebody else knows."""
    labels = lowered(question.labels)
    if (rest := below(labels, zone.domain)) is not None:
        if question.type in _TRANSFERS:
            return Answer(Code.REFUSED)
        return _Asked(zone, question).answer(wanted(rest))
    if (address := reversed_address(labels)) is not None:
        return _reverse(zone, question, address)
    return _about_network(zone, labels)


class _Asked:
    """One question about the cluster's domain."""

    def __init__(self, zone: Zone, question: Question, cnames: Records = ()) -> None:
        self._zone = zone
        self._question = question
        self._cnames = cnames
        # The domain in the asker's letters, as CoreDNS gives it back.
        self._origin = absolute(question.labels[len(question.labels) - len(zone.domain) :])
        self._depends: set[Tag] = set()

    def answer(self, asked: Wanted) -> Answer:
        match asked.asks:
            case Asks.APEX:
                return self._apex()
            case Asks.VERSION:
                record = self._record("TXT", f'"{VERSION}"', ttl=VERSION_TTL)
                return self._found([record] if self._question.type == "TXT" else [])
            case Asks.SERVER:
                return self._found(self._of_addresses([self._zone.server]))
            case Asks.MIDDLE:
                return self._found([])
            case Asks.NAMESPACE:
                return self._namespace(asked)
            case Asks.POD:
                return self._pod(asked)
            case Asks.SERVICE | Asks.ENDPOINT:
                return self._service(asked)
            case Asks.NOTHING:
                return self._none()
        raise AssertionError(asked)

    def _apex(self) -> Answer:
        if self._question.type == "SOA":
            return Answer(answer=(soa(self._zone, self._origin),))
        if self._question.type == "NS":
            server = f"ns.dns.{self._origin}"
            address = Record(server, TTL, _type_of(self._zone.server), self._zone.server)
            return Answer(answer=(self._record("NS", server),), additional=(address,))
        return self._found([])

    def _namespace(self, asked: Wanted) -> Answer:
        exists = self._exists(asked.namespace)
        return self._found([]) if exists and not self._denied(asked.branch) else self._none()

    def _exists(self, namespace: str) -> bool:
        self._depends.add(("namespace", namespace))
        return namespace in self._zone.namespaces

    def _denied(self, branch: str) -> bool:
        return branch == "pod" and self._zone.pods is Pods.DISABLED

    def _pod(self, asked: Wanted) -> Answer:
        address = undashed(asked.name)
        if address is None or self._denied("pod") or not self._exists(asked.namespace):
            return self._none()
        if self._zone.pods is Pods.VERIFIED:
            self._depends.add(("address", str(address)))
            if (asked.namespace, str(address)) not in self._zone.verified:
                return self._none()
        return self._found(self._of_addresses([str(address)]))

    # --- Services ---

    def _service(self, asked: Wanted) -> Answer:
        self._depends.add(service_tag(asked.namespace, asked.name))
        self._exists(asked.namespace)
        entry = self._zone.entry(asked.namespace, asked.name)
        if entry is None:
            return self._none()
        if entry.external:
            return self._none() if asked.endpoint else self._external(entry)
        targets = list(_targets(entry, asked))
        if not targets:
            return self._found([]) if _is_between(entry, asked) else self._none()
        if self._question.type == "SRV":
            return self._srv(entry, targets)
        return self._found(self._of_addresses([address for _, address, _ in targets]))

    def _srv(self, entry: Entry, targets: list[_Target]) -> Answer:
        service = f"{entry.name}.{entry.namespace}.svc.{self._origin}"
        weight = max(1, 100 // len(targets))
        records: dict[Record, None] = {}
        additional: dict[Record, None] = {}
        for label, address, port in targets:
            if port is None:
                continue
            target = f"{label}.{service}" if label else service
            records[self._record("SRV", f"0 {weight} {port.number} {target}")] = None
            additional[Record(target, TTL, _type_of(address), address)] = None
        return self._found(records, additional)

    def _external(self, entry: Entry) -> Answer:
        """A CNAME, and what is behind it: of this cluster it is answered from here, else for others to find."""
        target = entry.external.rstrip(".") + "."
        record = self._record("CNAME", target)
        if self._question.type == "CNAME":
            return self._found([record])
        labels = tuple(target[:-1].split("."))
        if below(lowered(labels), self._zone.domain) is None:
            if self._question.type == "SRV":  # whose port would it be?
                return self._found([])
            return Answer(answer=(record,), chase=target, depends=frozenset(self._depends))
        seen = (*self._cnames, record)
        owners = {each.owner.lower() for each in seen}
        if len(seen) > MOST_CNAMES or target.lower() in owners:
            return self._found([])
        question = Question(labels, self._question.type)
        behind = _Asked(self._zone, question, seen)
        found = behind.answer(wanted(labels[: len(labels) - len(self._zone.domain)]))
        depends = frozenset(self._depends) | found.depends
        if not found.answer:
            return Answer(authority=(soa(self._zone, self._origin),), depends=depends)
        return Answer(
            answer=(record, *found.answer), additional=found.additional, chase=found.chase, depends=depends
        )  # fmt: skip

    # --- records ---

    def _record(self, kind: str, data: str, ttl: int = TTL) -> Record:
        return Record(self._question.name, ttl, kind, data)

    def _of_addresses(self, addresses: Iterable[str]) -> dict[Record, None]:
        """Those of the type that was asked for, each once."""
        return {
            self._record(self._question.type, each): None
            for each in addresses
            if each and _type_of(each) == self._question.type
        }

    def _found(self, records: Iterable[Record], additional: Iterable[Record] = ()) -> Answer:
        """The name exists; without records of the type that was asked for it says so by the SOA alone."""
        answer = tuple(records)
        authority = () if answer else (soa(self._zone, self._origin),)
        return Answer(Code.NOERROR, answer, authority, tuple(additional), depends=frozenset(self._depends))

    def _none(self) -> Answer:
        """There is no such name."""
        return _nothing(self._origin, self._zone, Code.NXDOMAIN, self._depends)


_Target = tuple[str, str, Port | None]
"""One place where a Service is found: an endpoint's label (empty for the Service itself), its address, a port; None
for an endpoint of a Service without ports."""


def _targets(entry: Entry, asked: Wanted) -> Iterable[_Target]:
    """Where a Service is found, as far as the name asks for it. None: there is no such name."""
    if not entry.headless and not asked.endpoint:
        fitting = (port for port in entry.ports if _fits(port, asked))
        yield from (("", address, port) for port in fitting for address in entry.addresses)
        return
    for endpoint in entry.endpoints:
        if asked.endpoint and endpoint.label.lower() != asked.endpoint:
            continue
        for port in endpoint.ports:
            if _fits(port, asked):
                yield endpoint.label, endpoint.address, port
        if not endpoint.ports and not asked.port and not asked.protocol:
            yield endpoint.label, endpoint.address, None


def _is_between(entry: Entry, asked: Wanted) -> bool:
    """Whether it is a name by which ports' names are reached, such as ``_tcp.redis.default.svc``."""
    ports = [port for each in entry.endpoints for port in each.ports] if entry.headless else entry.ports
    return any(port.name and asked.endpoint == f"_{port.protocol.lower()}" for port in ports)


def _fits(port: Port, asked: Wanted) -> bool:
    return asked.port in ("", port.name.lower()) and asked.protocol in ("", port.protocol.lower())


def _type_of(address: str) -> str:
    return "AAAA" if ":" in address else "A"


# --- addresses' names -----------------------------------------------------------------------------------------------


def _reverse(zone: Zone, question: Question, address: Address) -> Answer | None:
    """A ClusterIP is its Service; any other address, every ready endpoint that has it."""
    depends: frozenset[Tag] = frozenset({("address", str(address))})
    text, entries = str(address), zone.with_address(address)
    names = [f"{each.name}.{each.namespace}.svc.{zone.domain_name}" for each in entries if _is_own(each, text)][:1]
    if not names:
        names = [
            f"{endpoint.label}.{each.name}.{each.namespace}.svc.{zone.domain_name}"
            for each in entries
            for endpoint in each.endpoints
            if str(ip_address(endpoint.address)) == text
        ]
    if not names:
        if not zone.is_reverse(address):
            return None
        return _nothing(_reverse_origin(zone, address), zone, Code.NXDOMAIN, depends)
    if question.type != "PTR":
        return _nothing(_reverse_origin(zone, address), zone, Code.NOERROR, depends)
    return Answer(
        answer=tuple(Record(question.name, TTL, "PTR", name) for name in dict.fromkeys(names)), depends=depends
    )


def _is_own(entry: Entry, address: str) -> bool:
    return any(str(ip_address(each)) == address for each in entry.addresses)


def _about_network(zone: Zone, labels: Labels) -> Answer | None:
    """What is below ``in-addr.arpa`` and no address: the networks that are ours exist, and nothing else in them."""
    if labels[-2:] != ("in-addr", "arpa"):
        return None
    octets: list[str] = []
    for label in reversed(labels[:-2]):
        if not (label.isdecimal() and label.isascii()) or len(octets) == 4:
            break
        octets.append(label)
    try:
        network = ip_network((".".join(octets + ["0"] * (4 - len(octets))), 8 * len(octets)))
    except ValueError:
        return None
    if not any(_within(network, each) for each in zone.reverse):
        return None
    code = Code.NOERROR if len(octets) == len(labels) - 2 else Code.NXDOMAIN
    return _nothing(_reverse_origin(zone, network.network_address), zone, code)


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.network_address in outer and inner.prefixlen >= outer.prefixlen


def _reverse_origin(zone: Zone, address: Address) -> str:
    """The name of the smallest zone of whole labels that holds the network that ``address`` is in."""
    holding = [each for each in zone.reverse if address in each]
    length = max((each.prefixlen for each in holding), default=address.max_prefixlen)
    width = 8 if address.version == 4 else 4
    return ".".join(address.reverse_pointer.split(".")[(address.max_prefixlen // width) - length // width :]) + "."


# --- what there is not ----------------------------------------------------------------------------------------------


def soa(zone: Zone, origin: str) -> Record:
    """The record that says for how long nothing is to be remembered: as long as something."""
    data = f"ns.dns.{origin} hostmaster.{origin} {zone.serial & 0xFFFFFFFF} 7200 1800 86400 {TTL}"
    return Record(origin, TTL, "SOA", data)


def _nothing(origin: str, zone: Zone, code: Code, depends: Iterable[Tag] = ()) -> Answer:
    return Answer(code, authority=(soa(zone, origin),), depends=frozenset(depends))
