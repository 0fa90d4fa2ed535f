"""Services through a process that connects to one endpoint after another until one takes the connection.

::

    table ──▶ mode ──▶ ports (listening sockets) ──▶ worker, without privileges: accepts, dials, copies
                └──▶ nftables, with the worker's ports in the endpoints' place

A failed dial moves on to the next endpoint, which no other mode can do. The price: each byte is copied twice, a backend
sees the node's address, and without the daemon nothing is answered.

* ``ports``: the daemon's sockets; ``link``: what the worker has to be told of them, in ``messages``.
* ``helper``: the worker as the daemon has it; ``worker``: the process itself.
* ``mode``: :class:`~overlay.services.proxy.userspace.mode.UserspaceMode`.
"""
