"""This node's pods: what runs here, as v1 Pod documents in etcd that go with the node.

**A pod is a container's network namespace.** Containers that join it (``--network container:X``) belong to it; the one
that made it gives the pod its name, its labels and its address.

    Docker's socket ──▶ docker ──containers──▶ mapping (pure) ──▶ documents ─┐
    pods.d ───────────▶ directory ────────────────────────────▶ documents ───┴─▶ registration (pure) ──▶ etcd

* ``container``: what Docker says of a container, as facts.
* ``names`` (pure): which names, labels, ports Kubernetes takes, and what is made of those that it does not.
* ``mapping`` (pure): containers and this node to Pod documents. Nothing is dropped in silence: what Docker allows and
  Kubernetes does not becomes an annotation, and a pod that cannot be reached says why.
* ``docker``: follows Docker's containers through its API: events, and a list after each connection.
* ``directory``: pods that somebody else makes (CNI, podman, the lab), one JSON file each.
* ``node`` (pure): the Node document.
* ``registration`` (pure): which keys to write now, so that etcd has what there is, at a bounded rate.
* ``registrar``: does that, with this node's etcd lease, on which all of its pods hang.
"""
