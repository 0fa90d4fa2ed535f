"""The cluster's names, on every node at one address: Kubernetes' DNS specification 1.1.0 as CoreDNS serves it.

Concepts, and which way they flow::

    mirror ──▶ entries (pure) ──▶ feed ══control socket══▶ worker: zone ──▶ answers (pure) ──▶ wire ──▶ cache
                                                              │                                   ▲   │
    place: address, sockets of port 53 ═══descriptors════════▶│ ◀────────── questions ────────────────┘
                                                              └──▶ forwarding: everything else, to the host's upstreams

* ``records``, ``names``, ``zone``, ``answers`` (pure): what is asked, what a name means, what is, what it answers

Strangers' bytes are parsed by the worker alone, a process without rights.
"""
