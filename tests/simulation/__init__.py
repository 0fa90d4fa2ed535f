"""Whole clusters on a clock that is only a number: the real control plane of every node, a faulty store between them,
and a checker of what must hold throughout.

* :mod:`clock` and :mod:`loop`: time, and an asyncio event loop a process, so that one can be stopped or killed alone.
* :mod:`server` and :mod:`store`: etcd behind unreliable lines, and how one process sees it.
* :mod:`node`: :class:`overlay.control.plane.ControlPlane` in a process that crashes, stands still, forgets.
* :mod:`scenario`: a seed made into a story; :mod:`checker`, :mod:`meter`, :mod:`reading`: what may not happen in it.
* :mod:`herd`: not a cluster, but thousands of real followers and one member of etcd as a model; ``make herd``.

``python -m tests.simulation --seeds 1000`` runs seeds; ``--seed N`` replays one with a trace.
"""
