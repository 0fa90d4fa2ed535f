"""What Services are told of themselves, as v1 Events that ``kubectl describe svc`` shows.

Concepts, and which way they flow::

    proxy's remarks ──▶ reporting (pure) ──▶ reporter ──▶ etcd ──▶ mirror
                            ▲                                        │
                            └──────────── what was told ◀────────────┘

* ``reporting``: which Events are to be written now: of what nobody has told, or not for a while.
* ``reporter``: writes them, each on an etcd lease that ends an hour after it was told last.

What a node has to say is the same on all nodes of one mode, and an Event's name follows from what it says: so whoever
sees it first tells it, all others find it told, and no node needs a memory of its own.
"""
