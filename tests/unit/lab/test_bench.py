"""The benchmark's arithmetic, its table and its picture."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from overlay.errors import FileError, LabError, UsageError
from overlay.lab.bench.load import forgeries
from overlay.lab.bench.plot import svg, write_svg
from overlay.lab.bench.probes import PROBES, busy_seconds, sockperf_median
from overlay.lab.bench.report import number, report
from overlay.lab.bench.results import Conditions, Results
from overlay.lab.bench.run import run_bench
from overlay.lab.bench.scenarios import PLAIN, VXLAN, WAYS, Measure, Mode
from tests.support.admission import OWN, PEERS, Outcome, oracle

OURS = WAYS[2]


def results(*ways: object) -> Results:
    return Results(Conditions("6.18", 2, 1.0, 3), (Mode.WIRE,), tuple(way for way in WAYS if way in ways))


@pytest.fixture
def measured() -> Results:
    """Three rounds, of which the second fell into a time in which the machine was half as fast."""
    filled = results(PLAIN, VXLAN, OURS)
    for round_, (plain, vxlan, ours) in enumerate([(8.0, 6.0, 3.0), (4.0, 3.0, 1.5), (8.0, 5.0, 4.0)]):
        filled.add(Mode.WIRE, PLAIN, round_, {Measure.TCP_ONE: plain, Measure.LATENCY: 38.0})
        filled.add(Mode.WIRE, VXLAN, round_, {Measure.TCP_ONE: vxlan, Measure.LATENCY: 40.0})
        filled.add(Mode.WIRE, OURS, round_, {Measure.TCP_ONE: ours, Measure.LATENCY: 80.0})
    return filled


def rendered(filled: Results) -> str:
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture:
        console.print(report(filled))
    return capture.get()


class TestResults:
    def test_medians(self, measured: Results) -> None:
        assert measured.median(Mode.WIRE, OURS, Measure.TCP_ONE) == 3.0
        assert measured.median(Mode.WIRE, OURS, Measure.UDP_RATE) is None

    def test_ratio_is_of_the_same_round(self, measured: Results) -> None:
        assert measured.ratio(Mode.WIRE, OURS, VXLAN, Measure.TCP_ONE) == 0.5
        assert measured.ratio(Mode.WIRE, OURS, PLAIN, Measure.TCP_ONE) == 0.375
        assert measured.ratio(Mode.VETH, OURS, PLAIN, Measure.TCP_ONE) is None

    def test_round_that_failed_for_one_of_both_does_not_count(self) -> None:
        filled = results(VXLAN, OURS)
        filled.add(Mode.WIRE, VXLAN, 0, {Measure.TCP_ONE: 2.0})
        filled.add(Mode.WIRE, OURS, 0, {Measure.TCP_ONE: 1.0})
        filled.add(Mode.WIRE, OURS, 1, {Measure.TCP_ONE: 9.0})
        assert filled.ratio(Mode.WIRE, OURS, VXLAN, Measure.TCP_ONE) == 0.5

    def test_nothing_arrived_there_is_no_ratio_to_it(self) -> None:
        filled = results(VXLAN, OURS)
        filled.add(Mode.WIRE, VXLAN, 0, {Measure.UDP_RATE: 0.0})
        filled.add(Mode.WIRE, OURS, 0, {Measure.UDP_RATE: 1.0})
        assert filled.ratio(Mode.WIRE, OURS, VXLAN, Measure.UDP_RATE) is None

    def test_base_is_vxlan_else_plain_else_the_first_measured(self, measured: Results) -> None:
        assert measured.base == VXLAN
        without = results(PLAIN, OURS)
        assert without.base is None
        without.add(Mode.WIRE, PLAIN, 0, {Measure.TCP_ONE: 1.0})
        assert without.base == PLAIN

    def test_base_of_ours_alone_is_the_first(self) -> None:
        alone = results(OURS)
        alone.add(Mode.WIRE, OURS, 0, {Measure.TCP_ONE: 1.0})
        assert alone.base == OURS

    def test_json(self, measured: Results) -> None:
        document = json.loads(measured.to_json())
        assert document["conditions"] == {"kernel": "6.18", "cores": 2, "seconds": 1.0, "rounds": 3}
        row = next(row for row in document["results"] if row["way"] == OURS.name)
        assert row == {
            "mode": "wire",
            "way": "userspace",
            "measure": "tcp_1_flow",
            "unit": "Gbit/s",
            "samples": [3.0, 1.5, 4.0],
            "median": 3.0,
            "of_plain": 0.375,
            "of_vxlan": 0.5,
        }

    def test_a_failure_is_not_complete(self, measured: Results) -> None:
        measured.failures.append("x")
        assert not measured.complete

    def test_a_missing_way_is_not_complete(self, measured: Results) -> None:
        measured.unavailable[OURS] = "no eBPF here"
        assert not measured.complete


class TestReport:
    def test_table_has_value_and_ratio(self, measured: Results) -> None:
        text = rendered(measured)
        row = next(line for line in text.splitlines() if line.startswith(OURS.title))
        assert row.split() == [*OURS.title.split(), "3.00", "0.50x", "-", "-", "80.0", "2.00x", "-"]
        assert "ratio to kernel vxlan in the same round" in text

    def test_what_is_missing_is_said(self, measured: Results) -> None:
        measured.unavailable[WAYS[-1]] = "no eBPF here"
        measured.failures.append("round 2: iperf3: no")
        text = rendered(measured)
        assert f"not available: {WAYS[-1].title}: no eBPF here" in text
        assert "failed: round 2: iperf3: no" in text

    def test_with_nothing_measured_there_is_still_a_report(self) -> None:
        assert "interleaved rounds" in rendered(results(PLAIN))

    @pytest.mark.parametrize(("value", "text"), [(3.416, "3.42"), (38.12, "38.1"), (1250.4, "1250"), (0.0, "0.00")])
    def test_three_digits(self, value: float, text: str) -> None:
        assert number(value) == text


class TestPlot:
    def test_well_formed_with_a_bar_for_every_figure(self, measured: Results) -> None:
        root = ElementTree.fromstring(svg(measured, Mode.WIRE))
        namespace = "{http://www.w3.org/2000/svg}"
        bars = [rect for rect in root.iter(f"{namespace}rect") if rect.get("rx")]
        assert len(bars) == 3 * 2
        widths = [float(bar.get("width", "0")) for bar in bars[:3]]
        assert [width / widths[0] for width in widths] == pytest.approx([8 / 8, 5 / 8, 3 / 8], abs=0.01)
        height = float(root.get("height", "0"))
        assert all(float(bar.get("y", "0")) + float(bar.get("height", "0")) <= height for bar in bars)

    def test_nothing_measured_is_an_empty_picture(self) -> None:
        ElementTree.fromstring(svg(results(PLAIN), Mode.WIRE))

    def test_unwritable_file(self, measured: Results, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="cannot write"):
            write_svg(measured, Mode.WIRE, tmp_path / "missing" / "x.svg")


def test_cards_have_no_mode_in_which_trains_cross_whole() -> None:
    with pytest.raises(UsageError, match=r"mode wire-trains: is no mode of cards; they have wire, wire-gro"):
        run_bench([VXLAN], list(Mode), seconds=1, rounds=1, name="x", progress=print, cards=["c1", "c2", "c3"])


class TestLoad:
    def test_forgeries_are_what_a_node_must_refuse(self) -> None:
        sender, peer = next(iter(PEERS.peers.items()))
        made = forgeries(sender, OWN)
        assert len({len(datagram) for datagram in made}) == 1
        for datagram in made:
            assert oracle(peer.public_ip, datagram, OWN, PEERS) is Outcome.REFUSED


class TestProbes:
    def test_every_measure_comes_from_one_probe(self) -> None:
        assert sorted(measure.value for probe in PROBES for measure in probe.measures) == sorted(
            measure.value for measure in Measure
        )

    def test_median_of_sockperf(self) -> None:
        text = "sockperf: ---> percentile 75.000 =   17.976\nsockperf: ---> percentile 50.000 =   17.255\n"
        assert sockperf_median(text) == 17.255

    def test_complaint_of_sockperf(self) -> None:
        with pytest.raises(LabError, match=r"sockperf: .*Can't connect"):
            sockperf_median("sockperf: starting\nsockperf: ERROR: Can't connect socket\nbye\n")

    def test_busy_is_all_but_idle_and_waiting(self, tmp_path: Path) -> None:
        stat = tmp_path / "stat"
        stat.write_text("cpu  100 20 30 5000 600 7 8 9 0 0\ncpu0 1 2 3\n")
        assert busy_seconds(stat) == pytest.approx((100 + 20 + 30 + 7 + 8 + 9) / 100)
