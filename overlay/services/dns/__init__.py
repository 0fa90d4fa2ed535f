"""The cluster's names, on every node at one address: Kubernetes' DNS specification 1.1.0 as CoreDNS serves it.

Concepts, and which way they flow::

    mirror ──▶ entries (pure) ──▶ feed ══control socket══▶ worker: zone ──▶ answers (pure) ──▶ wire ──▶ cache
                                                              │                                   ▲   │
    place: address, sockets of port 53 ═══descriptors════════▶│ ◀────────── questions ────────────────┘
                                                              └──▶ forwarding: everything else, to the host's upstreams

* ``records``, ``names``, ``zone``, ``answers`` (pure): what is asked, what a name means, what is, what it answers
* ``entries`` (pure): from the mirror to those facts; ``feed`` and ``messages``: how the worker is told what changed;
  ``helper``: one worker, replaced when it fails. ``worker``: its half, which alone knows dnspython.
* ``place``: address, device, sockets, who is answered; ``rules``: nftables' part; ``upstreams``: who else is asked.
* ``service``: joins these on a node; ``explain`` (pure): why a name answers what it answers, for people.

Strangers' bytes are parsed by the worker alone, a process without rights.
"""
