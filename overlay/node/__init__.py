"""This machine made so that it matches what the agent wants of it, whatever state it is found in.

``interfaces`` which interface is the underlay · ``collision`` what of others' stands in the overlay's way · ``routes``
which are ours, as sets · ``ways`` whether packets take them · ``blackhole`` one of those · ``firewall/`` accept and
masquerade rules · ``docker/`` what Docker runs with · ``subnet_env``, ``docker_opts`` the files that containers'
software reads · ``identity`` who this node is · ``preflight`` what must be there at all · ``forwarding``, ``mtu`` what
the kernel has set · ``removal`` how what was made goes again.
"""
