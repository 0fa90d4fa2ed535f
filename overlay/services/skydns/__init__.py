"""The cluster's names as SkyDNS records in etcd, for a CoreDNS with its ``etcd`` plugin; what kube2sky wrote.

Concepts, and which way they flow::

    mirror ──▶ dns.entries ──▶ records (pure) ──▶ wanted (pure) ──▶ publication (pure) ──▶ publisher ──▶ etcd
                                                                         ▲                     │
                                                                         └── what is there ◀───┘

* ``records``: what one Service, or one pod, is as keys and values; ``wanted``: all of them, and which have changed.
* ``publication``: who writes, on which etcd lease, and what next; ``publisher``: carries it out on a node.
"""
