"""One lease of our own among all others.

``view`` is every lease that the store shows, by an ``index`` of their subnets · ``allocator`` chooses what to claim
from it · ``keeper`` claims, renews, defends and gives back: the state machine, with its phases and actions in
``state``, its transactions in ``writes``, and what it has to wait for in ``pending`` · ``ownership`` says what is ours
· ``rivals`` notices who else writes our key, ``question`` asks them whether they live · ``conflicts`` finds leases that
cannot all be right.
"""
