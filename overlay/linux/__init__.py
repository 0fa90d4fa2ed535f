"""The doors to the kernel and its tools: one file a foreign world, facts in and facts out, no policy.

``netlink`` links, addresses and routes · ``tc`` queueing disciplines and classifiers · ``pyroute`` the one importer of
pyroute2 for both · ``ipsec`` the kernel's IPsec policies · ``tun`` TUN devices and their queues · ``sockopt`` names of
socket options · ``libbpf`` BPF programs and maps · ``netfilter`` iptables and nft · ``device_drops`` what interfaces
dropped · ``files`` files written whole or not at all.
"""
