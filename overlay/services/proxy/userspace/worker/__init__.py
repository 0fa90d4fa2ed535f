"""The process that stands between clients and endpoints. It reads what strangers send, and may do nothing else.

* ``balancing`` (pure): which endpoint is tried first, and which next.
* ``tcp``, ``udp``: one port each; ``counts``: what happened.
* ``__main__``: gives up its rights, and does what the daemon says.
"""
