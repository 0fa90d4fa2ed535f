"""Kubernetes' API for the objects of ``overlay.services``: what kubectl, client libraries and Prometheus talk to.

    HTTPS on loopback ──▶ server ──▶ auth ──▶ verbs ──▶ services.storage ──▶ etcd
                                               │  └──▶ watching ──▶ one watch on etcd for all clients, and for reading
                                               └── paths, bodies, discovery, openapi, tables (pure)

* ``paths`` (pure): which kind, namespace, name a URL means, and what its query asks for.
* ``bodies`` (pure): documents out of JSON, YAML and kubectl's protobuf; ``protobuf``: the last of them.
* ``discovery`` (pure): which kinds there are, in the old and in the aggregated form.
* ``openapi`` (pure): what the fields of a kind are, for ``kubectl explain`` and ``apply``, as v2 (``openapi_v2``, in
  protobuf) and v3.
* ``tables`` (pure): the columns that ``kubectl get`` prints.
* ``verbs``: get, list, create, update, patch, delete; ``watching``: what changes, from a revision on, and ``derived``:
  of what is computed; ``streams``: a watch as its client sees it.
* ``freshness``: whether what ``watching`` knows may answer for etcd.
* ``server``: aiohttp, and every error as a Status; ``auth``: tokens; ``certificates``: a CA of this host's own;
  ``kubeconfig``: how clients find all this; ``place``: the files that these are kept in.
* ``build``: makes ``numbers.json``, the fields' numbers in protobuf, of Kubernetes' definitions.

Stateless and without privileges: it reads and writes etcd with the rights of its etcd user; traffic does not need it.
"""
