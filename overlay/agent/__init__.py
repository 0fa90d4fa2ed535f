"""The agent of one node: the first daemon on the chassis (:mod:`overlay.daemon`).

    whereabouts ──underlay──▶ control ──ControlState──▶ upkeep ──▶ local ──▶ device, routes, firewall, files
                                                          └──▶ account ──▶ systemd, probes, status

``runner`` makes and starts all of it · ``settings`` what it was started with · ``past`` what it remembers · ``lookout``
one look at links, addresses and routes, ``whereabouts`` what follows from it · ``local`` this node made as decided,
``upkeep`` when · ``neighbours`` Docker and the firewalls of others · ``announce`` who is told of the subnet ·
``report`` the parts of what ``account`` says · ``removal`` all of it away again.
"""
