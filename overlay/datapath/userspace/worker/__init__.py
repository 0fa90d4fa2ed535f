"""The half of the userspace datapath that reads strangers' bytes: a process without privileges.

::

    TUN ──tunport──▶ outbound ──departures──▶ underlay ──UDP──▶ peers
    TUN ◀──tunport── inbound ◀──arrivals, batch── underlay ◀──UDP── peers

``admission`` says whether a datagram may enter · ``routes`` which peer holds an address · ``answers`` the ICMP that is
due · ``paths`` the MTU to each peer · ``claims`` who is believed about it · ``pace``, ``waiting`` when to look for more
and when to sleep · ``counters`` what was carried and dropped.

Only ``counters`` and the messages beside this folder are known to the agent's half; nothing here knows the agent.
"""
