"""What Kubernetes' objects are: kinds, schema, defaults, validation, patches, selectors. Pure; no I/O, no clock.

**An object is a JSON document**, a plain ``dict`` as Kubernetes' API serves it, with Kubernetes' own field names
(``metadata.labels``, ``spec.clusterIP``): nothing is translated, nothing that a newer API has is lost. :mod:`document`
reads and writes it and has typed helpers for what every object has. Documents are values: whoever changes one copies it
first (:func:`~overlay.services.objects.document.copy`), for mirror and watches hand the same one to many.

* A field that is absent, ``null`` or empty means the same, except where Kubernetes tells them apart (the rules of a
  NetworkPolicy): helpers return an empty ``dict`` or ``list`` and never None.
* What is stored has its defaults filled in and was valid when it was written. It has no ``metadata.resourceVersion``:
  that is the modification revision of its key, and is put in by who reads it (:func:`~.document.decode`).
* A pod's document in etcd is a v1 Pod as ``kubectl get pod -o yaml`` shows it: ``metadata`` with ``name``,
  ``namespace``, ``uid``, ``labels``, ``annotations`` and ``creationTimestamp``; ``spec`` with ``nodeName``,
  ``hostNetwork`` and ``containers`` (``name``, ``image``, ``ports``); ``status`` with ``phase``, ``podIP``, ``podIPs``,
  ``hostIP``, ``conditions`` (``Ready`` decides about endpoints) and ``containerStatuses``. A node's document likewise.
* Endpoints and EndpointSlices of a Service with a selector are computed documents of the same form.

``document`` → ``kinds`` (the catalogue) → ``schema`` (one definition of every field) → ``decoding``, ``defaults``,
``validation``, ``patches``, ``selectors``; ``lifecycle`` (a document on its way into etcd); ``ownership`` (sets of
fields) → ``managers`` (who owns which, kept through every write) → ``apply`` (server-side apply). ``build`` makes the
schema's ``definitions.json`` of Kubernetes' own.
"""
