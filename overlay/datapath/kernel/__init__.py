"""The kernel datapath: flannel's udp format carried by eBPF programs, with another datapath for what is unusual.

* ``overlay.bpf.c``: the programs; ``overlay.bpf.o`` and ``manifest.json``: what ``make bpf`` made of them, shipped so
  that no node needs a compiler.
* ``maps`` (endpoint, peers, counters) → ``programs`` (loading, pinning, taking over) → ``attach`` (which program on
  which hook) → ``machine`` (desired state against what is, told as a ``state``) → ``datapath``
  (:class:`~overlay.datapath.kernel.datapath.KernelDatapath`).
* ``fou``: the kernel's, for trains; ``fou_watch``: whether it does what it is there for.
* ``underlays``: which interfaces peers' packets may come by; ``findings``: what a look at the machine says, for people.
* ``proof``: which peers have the use of unfinished packets.
* ``probe``: whether all that works on this kernel.
"""
