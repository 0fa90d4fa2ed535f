"""etcd for every daemon: one consistent view of a range of keys, and transactions on it.

``contract``
    What may be asked of a store: read a range, commit a transaction, watch, and etcd leases. A Protocol; no etcd in it.
``etcd/``
    The contract on a real etcd: the one place that knows gRPC.
``follower``
    When to read a range and when to watch it, after any trouble: a state machine without I/O.
``following``
    What drives a follower against a store.
``mirror``
    All keys of a range as of one revision, fed by a follower.
``mirror_follower``
    The two together, for who follows a range and has it mirrored.
``recall``
    Whether a store's past is the one that we know, so that a watch may go on where another one ended.
``session``
    Our etcd lease, on which the keys hang that must go with us: a state machine without I/O.
``gojson``
    JSON as Go decodes it, since flanneld reads and writes the same keys.

Nothing here knows what the keys mean.
"""
