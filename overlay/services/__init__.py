"""Kubernetes' objects of the network on plain Docker: Services, endpoints, names, policy. A daemon of its own.

Concepts, and which way they flow::

    Docker, pods.d ──▶ pods ──▶ etcd ──watch──▶ mirror ──▶ endpoints (pure) ──▶ table (pure) ──▶ proxy
    kubectl ──▶ api ──▶ storage ──▶ etcd
                         ▲
                         └── objects (pure): kinds, schema, defaults, validation, patches, selectors

* ``objects``: what a Service or a Pod is. Objects are JSON documents (plain ``dict``), as Kubernetes' API serves them;
  one schema serves validation, defaults, patches and ``explain`` alike. No I/O, no clock.
* ``keys``: where everything is in etcd, below one prefix.
* ``configuration``: the cluster's service CIDR, node ports and domain, one document in etcd.
* ``allocation`` (pure): which ClusterIP and which node port a new Service gets.
* ``storage``: objects to keys and back; what must be unique is taken in the transaction that writes the object.
* ``expiry``: the etcd leases of objects that live for a while (Events).
* ``pods``: each node registers its own containers.
* ``facts`` (pure): of a Service and a pod what endpoints are computed from, found in documents by ``facts_of``;
  ``index`` (pure): which pods each Service selects; ``mirror``: one consistent view of all keys, kept with both.
* ``endpoints`` (pure): from Services and pods to Endpoints and EndpointSlices. Nobody stores those: every node and
  every API server computes the same from the same revision, so that there is neither controller nor leader.
* ``table`` (pure): what each virtual address means on this node, made by ``table_maker``; ``meeting`` (pure): what a
  connection meets there.
* ``environment`` (pure): Services as variables.
* ``proxy``: makes the addresses answer, in one of several modes.
* ``events``: what a mode cannot do for a Service, told to its owner.
* ``computed`` (pure): those, and nodes, by the keys that they would have; ``reading``: every kind, stored or computed,
  as of one revision.
* ``dns``: the cluster's names, answered on every node; ``skydns``: the same as records in etcd, on request.
* ``daemon``: ``overlay services``, which joins these on a node, by its ``settings``; ``lease`` and ``machine``: where
  and what the node is; ``removal``: all of it off the machine again.

This package stands on ``store`` and below; it never imports control, agent, backends or datapath. ``overlay.api``
serves all of it to kubectl.
"""
