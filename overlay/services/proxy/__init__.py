"""Makes Services' addresses answer on this node: one way of several, a *mode*, each held against the same table.

::

    mirror ──▶ table (pure) ──▶ keeper ──▶ mode ──▶ the kernel, or a helper process
                   │
                   └──▶ meeting (pure): what a connection meets; every mode is tested against it

* ``base``: :class:`~overlay.services.proxy.base.Mode`, what every mode can be asked for.
* ``modes``: which modes there are, and which one a node takes.
* ``nftables``: the mode that works on every kernel that has nftables; ``ebpf``, ``ipvs`` and ``userspace`` stand on it.

A mode owns what it makes and finds it again by name alone, so that a restarted daemon goes on where the last one ended,
and ``overlay cleanup`` removes it without having made it. What a mode programs goes on working without the daemon,
unless it says otherwise.
"""
