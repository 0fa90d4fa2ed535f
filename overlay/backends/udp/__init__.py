"""flannel's udp backend: inner packets inside UDP, carried by a datapath.

``backend`` the seam's view of it · ``options`` what the config may say · ``choice`` by which datapath, and why ·
``former`` what carries packets until that one does · ``device`` the TUN device's addresses and its one route.
"""
