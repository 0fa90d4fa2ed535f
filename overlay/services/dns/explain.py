"""Why a name answers what it answers: which step of the search list, which object. Pure.

A resolver tries a name with each domain of its search list, until one has records: first the name as it is where it has
as many dots as ``ndots`` says, or ends with one; else that comes last (resolv.conf(5)).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from overlay.services.dns import answers
from overlay.services.dns.names import Asks, Wanted, below, reversed_address, wanted
from overlay.services.dns.records import Answer, Code, Question, absolute, labels_of, lowered
from overlay.services.dns.zone import Entry, Pods, Zone

NDOTS = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One question that a resolver asks.

    Attributes:
        name: absolute.
        suffix: what the search list put behind the name; empty for the name as it is.
        answer: None where upstreams are asked.
        why: in a sentence.
        object: the key in etcd of what the answer is of; empty where there is none.
    """

    name: str
    suffix: str
    answer: Answer | None
    why: str
    object: str = ""

    @property
    def ends(self) -> bool:
        """Whether the resolver asks no further."""
        return self.answer is None or bool(self.answer.answer)


def search_list(namespace: str, domain: str) -> tuple[str, ...]:
    """That of containers of a namespace."""
    return f"{namespace}.svc.{domain}", f"svc.{domain}", domain


def explain(zone: Zone, name: str, kind: str, namespace: str, prefix: str) -> Iterator[Step]:
    """What a resolver of that namespace asks, one question after another, until one is answered with records.

    Args:
        prefix: of Services' keys in etcd.
    """
    for full, suffix in _tried(name, search_list(namespace, zone.domain_name.rstrip("."))):
        question = Question(labels_of(full), kind)
        found = answers.answer(zone, question)
        why, key = _reason(zone, question, found, prefix)
        step = Step(absolute(question.labels), suffix, found, why, key)
        yield step
        if step.ends:
            return


def _tried(name: str, search: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    as_it_is = name.endswith(".") or name.count(".") >= NDOTS
    if as_it_is:
        yield name, ""
    if not name.endswith("."):
        yield from ((f"{name}.{suffix}", suffix) for suffix in search)
        if not as_it_is:
            yield name, ""


def _reason(zone: Zone, question: Question, found: Answer | None, prefix: str) -> tuple[str, str]:
    labels = lowered(question.labels)
    rest = below(labels, zone.domain)
    if rest is None:
        if (address := reversed_address(labels)) is not None and found is not None:
            owners = ", ".join(f"Service {each.namespace}/{each.name}" for each in zone.with_address(address))
            return (f"the address of {owners}" if owners else f"{address} is of no Service and no endpoint"), ""
        return "no name of the cluster", ""
    asked = wanted(rest)
    entry = zone.entry(asked.namespace, asked.name)
    key = f"{prefix}{asked.namespace}/{asked.name}" if entry is not None and asked.branch == "svc" else ""
    return _words(zone, question, asked, entry, found), key


def _words(zone: Zone, question: Question, asked: Wanted, entry: Entry | None, found: Answer | None) -> str:
    match asked.asks:
        case Asks.NOTHING:
            return f"no form that a name below {zone.domain_name} has"
        case Asks.NAMESPACE:
            there = asked.namespace in zone.namespaces
            return f"namespace {asked.namespace}" + (", which has no records itself" if there else " does not exist")
        case Asks.POD:
            return _of_pod(zone, asked, found)
        case Asks.SERVICE | Asks.ENDPOINT:
            return _of_service(question, asked, entry, found)
    return "a name that every cluster has"


def _of_pod(zone: Zone, asked: Wanted, found: Answer | None) -> str:
    if found is not None and found.code is Code.NOERROR:
        return f"an address by its name, in namespace {asked.namespace}"
    if zone.pods is Pods.DISABLED:
        return "names of pods are turned off (--dns-pods)"
    if asked.namespace not in zone.namespaces:
        return f"namespace {asked.namespace} does not exist"
    return f"no pod has that address in {asked.namespace}" if zone.pods is Pods.VERIFIED else "no address by its name"


def _of_service(question: Question, asked: Wanted, entry: Entry | None, found: Answer | None) -> str:
    named = f"Service {asked.namespace}/{asked.name}"
    if entry is None:
        return f"no {named}"
    if entry.external:
        return f"{named} stands for {entry.external}"
    if found is not None and found.code is Code.NXDOMAIN:
        if asked.endpoint:
            return f"{named} has no ready endpoint {asked.endpoint}"
        if entry.headless and not entry.endpoints:
            return f"{named} is headless, and has no ready endpoint"
        return (
            f"{named} has no port {asked.port} of protocol {asked.protocol}" if asked.port else f"{named} has no port"
        )
    if found is not None and not found.answer:
        return f"{named} has no {question.type} record"
    if asked.endpoint:
        return f"{named}, endpoint {asked.endpoint}"
    if not entry.headless:
        return f"{named}, its ClusterIP {', '.join(sorted(entry.addresses, key=lambda each: ip_address(each).version))}"
    return f"{named}, headless: {len(entry.endpoints)} ready endpoints"
