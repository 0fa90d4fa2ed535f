"""Packet movers behind one protocol, ``base``, told of a tunnel by a ``spec``.

``userspace`` works anywhere, ``kernel`` where eBPF does, with the other one behind it. ``counters`` is the one
catalogue of what both count; ``causes`` says why packets are lost or take the slow path, and when that is a problem.
"""
