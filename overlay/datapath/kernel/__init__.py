"""The kernel datapath: flannel's udp format carried by eBPF programs, with another datapath for what is unusual.

* ``overlay.bpf.c``: the programs; ``overlay.bpf.o`` and ``manifest.json``: what ``build`` made of them, shipped so that
  no node needs a compiler.
* ``libbpf`` (ctypes) → ``maps`` (endpoint, peers, counters) → ``programs`` (loading, pinning, taking over) → ``attach``
  (which program on which hook) → ``machine`` (desired state against what is) → ``datapath``
  (:class:`~overlay.datapath.kernel.datapath.KernelDatapath`).
* ``proof``: which peers have the use of unfinished packets.
* ``probe``: whether all that works on this kernel.
"""
