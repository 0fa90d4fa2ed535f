"""Decides which subnet is ours and who the peers are. Knows etcd's keys and their meaning, no socket and no device.

::

    store ──snapshots, events──▶ LeaseView ─┬─▶ Keeper ──transactions──▶ store
                                            └─▶ Membership ──PeerTable──▶ the backend
    store ──config──▶ Configuration ──▶ both

``engine`` joins these decisions into one state machine without I/O; ``plane`` drives it against a store with a clock.

``leases/``
    One lease of our own among all others: kept, claimed anew, defended, given back.
``peers/``
    Who the others are, and how long one that has gone is still reached.
``schema/``
    What flannel's keys and values say, as facts of :mod:`overlay.model`, and back.
``configuration``
    Which config runs: a new one is judged before it is taken, a bad one leaves the last good one running.
"""
