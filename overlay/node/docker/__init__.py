"""Docker on this machine: what it can be told, what it does, and where that keeps the overlay from its containers.

* ``program``: which ``dockerd`` would start, and what it knows: its version and options.
* ``daemon``: the one that runs: its command line, its file, its networks, asked over its socket.
* ``judgement``: from these facts, and the firewall's, to problems with remedies. Pure.
* ``needs``: what it has to be told besides, by its version; ``names``: how its containers ask for the cluster's names.
* ``restart``: whether a restart would put it right, and who is asked for one.

Docker is only looked at. What it is told goes by its options (``overlay.node.docker_opts``), whenever it starts.
"""
