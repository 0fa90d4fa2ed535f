"""Services as virtual services of IPVS, the kernel's load balancer, with its schedulers.

::

    table ──▶ wanted (pure) ──▶ plan (pure): what is there, what is to change ──▶ mode ──▶ IPVS, and local routes
      │                                                                            │
      └──────────────▶ nftables, the mode beneath ◀─────────────────────────────────┘

IPVS gives a backend to who comes to a ClusterIP or, at the node's own addresses, to a node port. What it cannot do the
rules of nftables beneath do: they mark what is to be masqueraded, refuse and drop, keep source ranges, and give
backends at all other addresses.

For packets to come to IPVS, ClusterIPs are made the node's own by routes of type local, by the device
:data:`~overlay.services.proxy.ipvs.mode.DEVICE`, on which nothing else is. No interface has them as an address.

``device``: the device; ``settings``: IPVS's own, which are noted at it and set back.
"""
