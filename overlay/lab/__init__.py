"""A cluster in network namespaces on this machine: real etcd, real agents, real packets.

::

    namespace LAB-sw          bridge "underlay", no address; one port a machine below
    ├── LAB-etcd  eth0 172.31.0.100     etcd-server
    ├── LAB-n1    eth0 172.31.0.1       overlay agent ─ flannel0, and docker0 (address and MTU from subnet.env)
    │   └── LAB-n1p1  eth0 …            a pod on docker0; LAB-n1p2 is the next one
    └── LAB-n2    eth0 172.31.0.2       …

Every link has both of its ends inside these namespaces, so the machine's own network is never touched, and removing
the namespaces removes all links, routes and rules. The agents are the installed command, run as a user would run it.

* ``topology``: what a lab is, as data; ``plan``: the commands that make it. Both pure.
* ``shell``, ``process``, ``namespace``, ``bpffs``, ``state``: commands, processes, namespaces, pinned maps, files that
  outlive us.
* ``machine``: one namespace, node or pod; ``cluster``: all of them, from up to down; ``teardown``: removing whatever a
  crash left; ``faults``: what goes wrong on purpose.
* ``services``: Kubernetes' objects of its pods, with this machine's kubectl.
* ``traffic``: pings and transfers; ``status``, ``demo`` and ``bench`` stand on all of these.

In a test::

    with Lab.running(LabSpec(name="t1", nodes=2)) as lab:
        lab.pods[0].ping(lab.pods[1].address)
"""
