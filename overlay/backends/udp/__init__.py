"""flannel's udp backend: inner packets inside UDP, carried by a datapath. ``choice`` says by which."""
