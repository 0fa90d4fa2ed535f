"""The userspace datapath: a worker process without privileges between the TUN device and a UDP socket.

Two processes, two halves:

* here, the agent's: ``datapath`` (the :class:`~overlay.datapath.base.Datapath`), ``supervisor`` (starts, watches and
  replaces one worker), ``link`` (brings a worker's peers up to date), ``sockets`` (opens the UDP sockets), ``queues``
  (the TUN's), ``steering`` (which worker gets which flow), ``route_mtus`` (what the node's routes say of paths);
* in ``worker/``: the half that parses what strangers send.

``messages`` is what both say to each other, over a socketpair, ``counters`` what they count. The worker's half imports
neither asyncio nor grpc nor click: it is short of memory, and has no rights to use them with.
"""
