"""The userspace datapath: a worker process without privileges between the TUN device and a UDP socket.

Two processes, two halves of this package:

* in the agent: ``datapath`` (the :class:`~overlay.datapath.base.Datapath`), ``supervisor`` (starts, watches and
  replaces one worker), ``link`` (brings a worker's peers up to date), ``sockets`` (opens the UDP sockets), ``queues``
  (the TUN's), ``steering`` (which worker gets which flow);
* in the worker: ``worker`` (its main loop), ``privileges`` and ``seccomp`` (give them up), ``outbound`` and
  ``inbound`` (the two directions), ``pace`` (when to look for more), ``admission`` (who may send what), ``routes``
  (the peers), ``tunport``
  and ``underlay`` (the descriptors), ``arrivals`` and ``departures`` (packets gathered, as received and for one
  send), ``batch`` (many receives in one call), ``paths`` (MTUs), ``answers`` and ``ratelimit`` (ICMP), ``counters``.

``messages`` is what both say to each other, over a socketpair. The worker's half imports neither asyncio nor grpc nor
click: it is short of memory and parses what strangers send.
"""
