"""The doors to the kernel and its tools: one file a foreign world, facts in and facts out, no policy.

``netlink`` links and addresses, ``routes`` the routing table, ``changes`` that any of them has changed · ``bridge``
ports of bridges · ``tc`` queueing disciplines and classifiers · ``pyroute`` the one importer of pyroute2 for all of
these · ``conntrack`` flows, and ``sock_diag`` sockets, that are ended · ``fou`` the kernel's FOU · ``ipsec`` its IPsec
policies · ``ipvs`` its load balancer · ``tun`` TUN devices and their queues · ``device_drops`` what interfaces dropped.

``libbpf`` BPF programs and maps, ``bpf_build`` how they are compiled, ``bpffs`` where they are pinned · ``netfilter``
iptables and nft, ``nf_tables`` the kernel's tables by netlink · ``cgroups``, ``namespaces`` which there are · ``libc``
what Python does not call, ``sockopt`` names of socket options · ``shortage`` errors of a machine that is short of
something · ``files`` files written whole or not at all.
"""
