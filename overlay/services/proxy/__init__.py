"""Makes Services' addresses answer on this node: one way of several, a *mode*, each held against the same table.

::

    mirror ──▶ table (pure) ──▶ keeper ──▶ mode ──▶ the kernel, or a helper process
                   │
                   └──▶ meeting (pure): what a connection meets; every mode is tested against it

* ``base``: :class:`~overlay.services.proxy.base.Mode`, what every mode can be asked for; ``modes``: which there are,
  and which one a node takes.
* ``nftables``, on which ``ebpf``, ``ipvs`` and ``userspace`` stand, and ``iptables``: each one way, with what it can
  and what it costs.
* ``place``: where the node is, one look at the machine; ``keeper``: the loop, from the mirror to the mode.
* In every mode: ``stale``: flows that lead where no Service does any more; ``hairpin``: bridges' ports that give
  packets back; ``passage``: the way to pods on the node's own bridge.

A mode owns what it makes and finds it again by name alone, so that a restarted daemon goes on where the last one ended,
and ``overlay cleanup`` removes it without having made it. What a mode programs goes on working without the daemon,
unless it says otherwise.
"""
