"""flannel's etcd schema: keys and JSON values on one side, the facts of :mod:`overlay.model` on the other.

``keys``    where a network's config and its leases are, and which subnets a lease's key names
``lease``   one lease, from key and value, and back byte for byte
``config``  the network's config, checked and with its defaults filled in
"""
