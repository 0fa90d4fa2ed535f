"""What names answer, against what CoreDNS answers, and properties that hold whatever is asked."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlay.services.dns import answers
from overlay.services.dns.names import Asks, dashed, undashed, wanted
from overlay.services.dns.records import Answer, Code, Question, Record, labels_of
from overlay.services.dns.zone import TTL, Endpoint, Entry, Pods, Zone
from tests.unit.services.dns import cases
from tests.unit.services.dns.cases import Case

ALL = [
    *((cases.zone(), case) for case in cases.cases(cases.SERVICES + cases.APEX)),
    *((cases.zone(pods=mode), case) for mode, table in cases.PODS.items() for case in cases.cases(table)),
    *((cases.zone(cases.CI), case) for case in cases.cases(cases.CLUSTER)),
    *((cases.zone(cases.REVERSE), case) for case in cases.cases(cases.ADDRESSES)),
]


def ask(zone: Zone, name: str, kind: str = "A") -> Answer:
    found = answers.answer(zone, Question(labels_of(name), kind))
    assert found is not None, f"{name} is not ours"
    return found


def plain(records: tuple[Record, ...]) -> list[tuple[str, str, str]]:
    return sorted((each.owner, each.type, each.data) for each in records)


@pytest.mark.parametrize(("zone", "case"), ALL, ids=[str(case) for _, case in ALL])
def test_as_coredns(zone: Zone, case: Case) -> None:
    found = ask(zone, case.name, case.type)
    assert found.code is (Code.NXDOMAIN if case.answer is None else Code.NOERROR)
    assert plain(found.answer) == sorted(case.answer or ())
    assert plain(found.additional) == sorted(case.additional)
    if found.answer:
        assert found.authority == ()
        assert {each.ttl for each in (*found.answer, *found.additional)} <= {TTL, answers.VERSION_TTL}
    else:
        assert found.authority == (answers.soa(zone, "cluster.local."),)


def test_the_soa() -> None:
    (record,) = ask(cases.zone(), "cluster.local", "SOA").answer
    assert (record.owner, record.ttl, record.type) == ("cluster.local.", 5, "SOA")
    assert record.data == "ns.dns.cluster.local. hostmaster.cluster.local. 1499347823 7200 1800 86400 5"


@pytest.mark.parametrize(
    ("name", "kind", "records"),
    [
        ("SvC1.TeStNs.SvC.cLuStEr.LoCaL.", "A", [("SvC1.TeStNs.SvC.cLuStEr.LoCaL.", "A", "10.0.0.1")]),
        ("_HtTp._TcP.sVc1.TeStNs.SvC.cLuStEr.LoCaL.", "SRV",
         [("_HtTp._TcP.sVc1.TeStNs.SvC.cLuStEr.LoCaL.", "SRV", "0 100 80 svc1.testns.svc.cLuStEr.LoCaL.")]),
        ("Cluster.local.", "SOA",
         [("Cluster.local.", "SOA",
           "ns.dns.Cluster.local. hostmaster.Cluster.local. 1499347823 7200 1800 86400 5")]),
    ],
)  # fmt: skip
def test_letters_come_back_as_they_were_asked(name: str, kind: str, records: list[tuple[str, str, str]]) -> None:
    assert plain(ask(cases.zone(), name, kind).answer) == records


def test_so_they_do_where_there_is_nothing() -> None:
    (soa,) = ask(cases.zone(), "not-a-service.testns.svc.ClUsTeR.lOcAl.").authority
    assert soa.owner == "ClUsTeR.lOcAl."
    assert soa.data.startswith("ns.dns.ClUsTeR.lOcAl. hostmaster.ClUsTeR.lOcAl. ")


def test_an_outside_name_is_for_others_to_find() -> None:
    found = ask(cases.zone(), "external.testns.svc.cluster.local")
    assert plain(found.answer) == [("external.testns.svc.cluster.local.", "CNAME", "ext.interwebs.test.")]
    assert found.chase == "ext.interwebs.test."
    assert ask(cases.zone(cases.CI), "ext-svc.test-1.svc.cluster.local", "AAAA").chase == "example.net."


@pytest.mark.parametrize("name", ["www.example.com", "local", "cluster.localx", "", "1.2.3.4.in-addr.arpa", "arpa"])
def test_what_is_not_ours_is_not_answered(name: str) -> None:
    assert answers.answer(cases.zone(), Question(labels_of(name), "PTR")) is None


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_nobody_gets_it_all(kind: str) -> None:
    assert ask(cases.zone(), "cluster.local", kind) == Answer(Code.REFUSED)


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "code", "origin"),
    [
        ("101.0.0.10.in-addr.arpa", "PTR", Code.NXDOMAIN, "0.10.in-addr.arpa."),
        ("100.0.0.10.in-addr.arpa", "A", Code.NOERROR, "0.10.in-addr.arpa."),
        ("svc1.testns.svc.0.10.in-addr.arpa", "A", Code.NXDOMAIN, "0.10.in-addr.arpa."),
        ("0.10.in-addr.arpa", "PTR", Code.NOERROR, "0.10.in-addr.arpa."),
        ("7.0.10.in-addr.arpa", "PTR", Code.NOERROR, "0.10.in-addr.arpa."),
        ("1.168.192.in-addr.arpa", "NS", Code.NOERROR, "168.192.in-addr.arpa."),
        ("x.100.0.0.10.in-addr.arpa", "PTR", Code.NXDOMAIN, "0.10.in-addr.arpa."),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa",
            "PTR",
            Code.NXDOMAIN,
            "0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa.",
        ),
    ],
)
def test_networks_that_are_ours_are_answered_for(name: str, kind: str, code: Code, origin: str) -> None:
    zone = cases.zone(cases.REVERSE)
    zone.reverse = cases.REVERSE_NETWORKS
    found = ask(zone, name, kind)
    assert (found.code, found.answer) == (code, ())
    assert [each.owner for each in found.authority] == [origin]


def test_a_network_that_ends_within_a_label_has_the_zone_above() -> None:
    zone = cases.zone(())
    zone.reverse = (ip_network("10.96.0.0/12"),)
    assert ask(zone, "1.0.100.10.in-addr.arpa", "PTR").authority[0].owner == "10.in-addr.arpa."
    assert answers.answer(zone, Question(labels_of("10.in-addr.arpa"), "PTR")) is None
    assert answers.answer(zone, Question(labels_of("1.0.112.10.in-addr.arpa"), "PTR")) is None


# --- ExternalName among ourselves ------------------------------------------------------------------------------------


def chain(*targets: str) -> Zone:
    """ExternalName Services, each of which stands for the next."""
    links = (Entry("testns", f"e{number}", external=target) for number, target in enumerate(targets))
    return cases.zone((*links, Entry("testns", "end", ("10.0.0.9",), ports=(cases.HTTP,))))


def test_a_chain_is_followed_to_its_end() -> None:
    zone = chain("E1.testns.svc.cluster.local", "end.testns.svc.cluster.local")
    found = ask(zone, "e0.testns.svc.cluster.local")
    assert [(each.type, each.data) for each in found.answer] == [
        ("CNAME", "E1.testns.svc.cluster.local."), ("CNAME", "end.testns.svc.cluster.local."), ("A", "10.0.0.9"),
    ]  # fmt: skip
    assert {("service", f"testns/{name}") for name in ("e0", "e1", "end")} <= found.depends


def test_a_chain_that_leaves_is_chased_outside() -> None:
    found = ask(chain("e1.testns.svc.cluster.local", "www.example.com"), "e0.testns.svc.cluster.local")
    assert [each.type for each in found.answer] == ["CNAME", "CNAME"]
    assert found.chase == "www.example.com."


@pytest.mark.parametrize(
    "targets",
    [
        ["e0.testns.svc.cluster.local"],
        ["e1.testns.svc.cluster.local", "E0.testns.svc.cluster.local"],
        [f"e{number + 1}.testns.svc.cluster.local" for number in range(20)],
        ["gone.testns.svc.cluster.local"],
        ["x.end.testns.svc.cluster.local"],
    ],
)
def test_a_chain_without_end_is_without_records(targets: list[str]) -> None:
    found = ask(chain(*targets), "e0.testns.svc.cluster.local")
    assert (found.code, found.answer, found.chase) == (Code.NOERROR, (), "")
    assert found.authority


def test_a_port_of_a_chain_is_the_port_of_its_end() -> None:
    found = ask(chain("end.testns.svc.cluster.local"), "e0.testns.svc.cluster.local", "SRV")
    assert [each.type for each in found.answer] == ["CNAME", "SRV"]


# --- whatever is asked -----------------------------------------------------------------------------------------------

LABELS = st.sampled_from([
    "svc1", "testns", "svc", "pod", "hdls1", "external", "external-to-service", "dup-name", "172-0-0-2", "_http",
    "_tcp", "dns", "ns", "dns-version", "*", "", "-", "10-240-0-1", "podns", "a" * 63, "\u00e4", "1", "0", "10",
    "in-addr", "ip6", "arpa", "SVC", "x.y",
])  # fmt: skip
TYPES = st.sampled_from(["A", "AAAA", "SRV", "CNAME", "TXT", "PTR", "NS", "SOA", "MX", "ANY", "HINFO", "TYPE65"])


@given(st.lists(LABELS, max_size=8), TYPES, st.sampled_from(Pods))
def test_every_question_has_one_kind_of_answer(labels: list[str], kind: str, pods: Pods) -> None:
    zone = cases.zone(pods=pods)
    found = ask(zone, ".".join([*labels, "cluster.local"]).lstrip("."), kind)
    if found.code is Code.NXDOMAIN:
        assert not found.answer
    assert bool(found.answer) != bool(found.authority)
    for record in found.answer:
        assert record.type in (kind, "CNAME")


@given(st.lists(LABELS, max_size=6), TYPES, TYPES, st.sampled_from(Pods))
def test_a_name_exists_for_all_types_or_for_none(labels: list[str], one: str, other: str, pods: Pods) -> None:
    """Who has heard that a name does not exist asks for nothing of it (RFC 8020)."""
    zone = cases.zone(pods=pods)
    name = ".".join([*labels, "cluster.local"]).lstrip(".")
    assert (ask(zone, name, one).code is Code.NXDOMAIN) == (ask(zone, name, other).code is Code.NXDOMAIN)


EXISTING: dict[tuple[Entry, ...], list[str]] = {
    entries: [each.name for each in cases.cases(text) if each.answer is not None and each.name.endswith(".local.")]
    for entries, text in ((cases.PLUGIN, cases.SERVICES), (cases.CI, cases.CLUSTER))
}


@pytest.mark.parametrize("entries", EXISTING)
def test_what_is_above_a_name_that_exists_exists(entries: tuple[Entry, ...]) -> None:
    """Who asks for a name label by label (RFC 9156) stops where there is nothing (RFC 8020)."""
    zone = cases.zone(entries)
    for name in EXISTING[entries]:
        labels = name.rstrip(".").split(".")
        for above in (".".join(labels[start:]) for start in range(len(labels) - 2)):
            assert ask(zone, above, "A").code is Code.NOERROR, above


@pytest.mark.parametrize(
    ("label", "service", "code"),
    [
        ("_tcp", "svc1", Code.NOERROR),
        ("_udp", "svc1", Code.NXDOMAIN),
        ("_tcp", "hdls1", Code.NOERROR),
        ("_tcp", "hdlsprtls", Code.NXDOMAIN),
        ("_tcp", "external", Code.NXDOMAIN),
        ("tcp", "svc1", Code.NXDOMAIN),
    ],
)
def test_what_is_above_a_ports_name_is_empty(label: str, service: str, code: Code) -> None:
    found = ask(cases.zone(), f"{label}.{service}.testns.svc.cluster.local", "SRV")
    assert (found.code, found.answer) == (code, ())


@pytest.mark.parametrize("label", ["10.0.0.1", "2001:db8::1", "fe80--1%eth0", "10-0-0-1.", "\u0661-0-0-1", "::"])
def test_an_address_that_is_not_dashed_is_no_pods_name(label: str) -> None:
    """A label may have any byte; as a name of an answer it would be another."""
    question = Question((label, "podns", "pod", "cluster", "local"), "A")
    found = answers.answer(cases.zone(), question)
    assert found is not None
    assert found.code is Code.NXDOMAIN


@given(st.lists(LABELS, max_size=6), TYPES)
def test_letters_do_not_matter(labels: list[str], kind: str) -> None:
    name = ".".join([*labels, "cluster.local"]).lstrip(".")
    lower, upper = ask(cases.zone(), name.lower(), kind), ask(cases.zone(), name.upper(), kind)
    assert lower.code is upper.code
    assert [each.data.lower() for each in lower.answer] == [each.data.lower() for each in upper.answer]


@given(st.ip_addresses())
@example(IPv6Address("::ffff:0.0.0.0"))
def test_an_address_is_a_label_and_back(address: object) -> None:
    assert undashed(dashed(str(address))) == address


@pytest.mark.parametrize(
    ("address", "label"),
    [
        ("10.0.5.2", "10-0-5-2"), ("fd00::5", "fd00--5"), ("::1", "--1"), ("::ffff:1:2", "--ffff-1-2"),
        ("::ffff:0.1.0.2", "--ffff-1-2"), ("64:ff9b::192.0.2.33", "64-ff9b--c000-221"),
    ],
)  # fmt: skip
def test_an_address_has_one_label_however_python_writes_it(address: str, label: str) -> None:
    """From 3.13 on it writes dots where IPv4 is mapped."""
    assert dashed(address) == label
    assert undashed(label) == ip_address(address)


@given(st.lists(LABELS, max_size=8).map(tuple))
def test_whatever_is_asked_is_taken_apart(labels: tuple[str, ...]) -> None:
    found = wanted(labels)
    assert (found.asks is Asks.APEX) == (labels == ())


# --- what answers hang on --------------------------------------------------------------------------------------------

SERVICE = st.builds(
    Entry,
    st.sampled_from(["testns", "podns"]),
    st.sampled_from(["a", "b"]),
    addresses=st.sampled_from([("10.0.0.1",), ("10.0.0.2", "fd00::1")]),
    headless=st.booleans(),
    external=st.sampled_from(["", "", "a.testns.svc.cluster.local", "www.example.com"]),
    ports=st.just((cases.HTTP,)),
    endpoints=st.lists(
        st.builds(Endpoint, st.sampled_from(["10.1.0.1", "10.1.0.2"]), st.sampled_from(["h1", "10-1-0-1"]),
                  st.just((cases.HTTP,))),
        max_size=2,
    ).map(tuple),
)  # fmt: skip

ASKED = [
    Question(labels_of(name), kind)
    for name in (
        "a.testns.svc.cluster.local", "b.testns.svc.cluster.local", "h1.a.testns.svc.cluster.local",
        "a.podns.svc.cluster.local", "1.0.0.10.in-addr.arpa", "1.0.1.10.in-addr.arpa", "testns.svc.cluster.local",
    )
    for kind in ("A", "SRV", "PTR")
]  # fmt: skip


@given(st.lists(SERVICE, max_size=4), st.lists(st.one_of(SERVICE, st.sampled_from([("testns", "a"), ("podns", "a")]))))
def test_an_answer_changes_only_with_what_it_hangs_on(
    before: list[Entry], changes: list[Entry | tuple[str, str]]
) -> None:
    """What the cache of encoded answers stands on."""
    zone = cases.zone(())
    for entry in before:
        zone.put(entry)
    remembered = {question: answers.answer(zone, question) for question in ASKED}
    for change in changes:
        concerned = zone.put(change) if isinstance(change, Entry) else zone.remove(change)
        for question, known in remembered.items():
            now = answers.answer(zone, question)
            if known is None:  # forwarded: an address whose name may be ours now
                continue
            if now is None or (now.code, now.answer) != (known.code, known.answer):
                assert known.depends & concerned, question
        remembered = {question: answers.answer(zone, question) for question in ASKED}
