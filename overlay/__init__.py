"""A flannel-compatible overlay network agent.

Concepts, and which way they flow::

    etcd ──watch──▶ store ──▶ control ──PeerTable──▶ backend ──▶ datapath ──UDP──▶ peers
      ▲               │          │                     │            ▲
      └──────lease────┴──────────┘                     ▼            │ packets
                                                     node ──▶ flannel0 (TUN), routes, firewall, subnet.env

* ``model`` the facts (config, lease, peer), frozen, without I/O · ``errors`` one tree of them · ``problem`` what is
  wrong and ends nothing · ``rates`` how often · ``text`` what others wrote, made fit to be read.
* ``packet`` bytes only: headers, checksums, segmentation, coalescing; ``mtu`` has every MTU and its arithmetic.
* ``linux`` one door to each foreign world: netlink, tc, TUN, BPF, iptables. Facts, no policy.
* ``store`` etcd for every daemon; ``daemon`` what every daemon needs of its process.
* ``control`` decides which subnet is ours and who the peers are; it knows no socket and no netlink.
* ``node`` changes this machine until it matches a desired state: links, addresses, routes, rules, files.
* ``datapath`` moves packets: ``userspace`` anywhere, ``kernel`` where eBPF allows; one wire format.
* ``backends`` joins those for one flannel backend type, and says what its lease must.
* ``agent`` builds the parts and supervises them; only it knows all.
* ``services`` is the second daemon: Kubernetes' objects of the network, and what they mean on a node. It stands on
  ``store`` and ``daemon``, beside the agent. ``api`` serves those objects to kubectl.
* ``observe`` is what people see: the log, the status, packets decoded.
* ``cli`` has one file a command; ``lab`` builds clusters in network namespaces out of the installed command.

Imports go one way: errors, model → packet, linux → store → daemon, observe → node, control → datapath → backends →
agent, services → api → lab, cli.
"""

__version__ = "0.1.0"
