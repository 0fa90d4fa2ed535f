"""Names beside dnsmasq, asked by dnsperf, in one run: ``python -m tests.bench.names``; root, and a quiet machine.

Both answer the same names from what they keep, at addresses of the same node; dnsperf asks from a pod. They take turns,
and of several rounds the median counts.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import statistics
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.dns_site import ADDRESS, DnsSite, dns_site, until

ROUNDS, SECONDS = 3, 4
THEIRS = "10.0.5.1"
ON_AIR = 100
"""Questions that dnsperf has under way."""


@dataclass(frozen=True)
class Told:
    """What dnsperf says: answers a second, the share that was lost, and how long 99 of 100 took, in milliseconds."""

    rate: float
    lost: float
    p99: float = 0.0


def ask(site: DnsSite, server: str, names: Path, *more: str) -> Told:
    """One run of dnsperf."""
    said = site.pod.run("dnsperf", "-s", server, "-d", str(names), "-l", str(SECONDS), "-q", str(ON_AIR), *more)
    rate, lost = (_figure(said, what) for what in (r"Queries per second:\s+([\d.]+)", r"Queries lost:.*\(([\d.]+)%\)"))
    took = sorted(float(each) for each in re.findall(r"^> NOERROR \S+ \S+ ([\d.]+)$", said, re.M))
    return Told(rate, lost, took[len(took) * 99 // 100] * 1000 if took else 0.0)


def _figure(said: str, what: str) -> float:
    found = re.search(what, said)
    assert found is not None, said
    return float(found[1])


def start_theirs(site: DnsSite, count: int) -> None:
    """dnsmasq with the same names."""
    hosts = site.folder / "hosts"
    hosts.write_text("".join(f"10.96.{n >> 8}.{n & 255} s{n}.default.svc.cluster.local\n" for n in range(count)))
    site.start(
        "dnsmasq", site.host, "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
        f"--addn-hosts={hosts}", f"--listen-address={THEIRS}", "--bind-interfaces", "--local=/cluster.local/",
        "--cache-size=10000", "--pid-file=", "--user=root",
    )  # fmt: skip
    until(lambda: _answers(site), "dnsmasq answers")


def _answers(site: DnsSite) -> bool:
    return bool(site.pod.attempt("dig", f"@{THEIRS}", "+short", "+time=1", NAME).stdout.strip())


NAME = "s0.default.svc.cluster.local"


def put_services(site: DnsSite, count: int) -> None:
    """So many Services with addresses, a hundred in each transaction, by etcd's JSON gateway."""

    def put(numbers: range) -> None:
        body = json.dumps({"success": [{"request_put": _request(number)} for number in numbers]}).encode()
        with urllib.request.urlopen("http://127.0.0.1:2379/v3/kv/txn", body, timeout=60) as answer:
            answer.read()

    for start in range(0, count, 100):
        site.host.call(partial(put, range(start, min(start + 100, count))))


def _request(number: int) -> dict[str, str]:
    address = f"10.96.{number >> 8}.{number & 255}"
    spec = {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]}
    metadata = {"name": f"s{number}", "namespace": "default"}
    document = json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    written = {"key": f"/overlay/objects/services/default/s{number}", "value": document}
    return {field: base64.b64encode(text.encode()).decode() for field, text in written.items()}


def names_file(site: DnsSite, count: int) -> Path:
    path = site.folder / f"names-{count}"
    path.write_text("".join(f"s{number}.default.svc.cluster.local A\n" for number in range(count)))
    return path


def compare(site: DnsSite, count: int) -> str:
    """A line of the table: what both do with ``count`` names."""
    names = names_file(site, count)
    ask(site, ADDRESS, names)  # encodes every answer once
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(ask(site, ADDRESS, names))
        theirs.append(ask(site, THEIRS, names))
    rates = [statistics.median(each.rate for each in told) for told in (ours, theirs)]
    half = str(int(rates[0] / 2))
    calm = [ask(site, server, names, "-Q", half, "-v") for server in (ADDRESS, THEIRS)]
    lost = max(each.lost for each in ours)
    return (
        f"| {count:,} | {rates[0]:,.0f}/s | {rates[1]:,.0f}/s | {rates[0] / rates[1]:.2f} | {lost:g} % "
        f"| {calm[0].p99:.2f} ms | {calm[1].p99:.2f} ms |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="1,100,10000", help="of names")
    counts = [int(each) for each in parser.parse_args().counts.split(",")]
    with dns_site() as site:
        put_services(site, max(counts))
        site.start_services("--dns-client-rate", "0")
        start_theirs(site, max(counts))
        last = f"s{max(counts) - 1}.default.svc.cluster.local"
        until(lambda: site.short(last), "all names")
        print("| names | answered here | dnsmasq | ratio | lost | p99 at half of it | dnsmasq's p99 |")
        print("|---|---|---|---|---|---|---|")
        for count in counts:
            print(compare(site, count), flush=True)
    version = subprocess.run(["dnsmasq", "--version"], capture_output=True, text=True, check=False).stdout.split()[2]
    print(f"\ndnsmasq {version}, dnsperf -q {ON_AIR}, {ROUNDS} rounds of {SECONDS} s, medians")
    return 0


if __name__ == "__main__":
    sys.exit(main())
