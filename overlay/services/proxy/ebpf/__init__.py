"""Services at the socket, in eBPF: a backend takes the virtual address's place before there is a packet.

::

    table ──▶ wanted (pure) ──▶ book (pure) ──▶ maps ──▶ sockets.bpf.c, at the root of the cgroup tree
                                                │
                       namespaces ──▶ inside ──▶┤
                                                └──▶ stale: UDP sockets whose backend is gone

* ``sockets.bpf.c``: the programs; ``sockets.bpf.o`` and ``manifest.json``: what ``make bpf`` made of them.
* ``inside``: whose sockets are translated; those of other network namespaces are left to the rules beneath.
* ``wanted``: which virtual address leads to which backends, as sockets of this node see it.
* ``layout``: maps as bytes; ``slots``: whose is which place of the array; ``book``: what to write, in which order.
* ``programs``: loading, pinning, attaching, removing; ``maps``: reading and writing.
* ``mode``: :class:`~overlay.services.proxy.ebpf.mode.EbpfMode`; ``probe``: whether this kernel can.

What comes from outside, or from a process in no cgroup of this machine, meets the rules of the mode beneath.
"""
