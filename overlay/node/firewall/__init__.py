"""Masquerading and forwarding for the overlay: flannel's rules, in iptables or nftables.

* ``model``: what the rules mean, once, for both: pure.
* ``saved``: a table of iptables as facts, as iptables prints it or as nft sees it: pure.
* ``iptables`` and ``nftables``: from meaning to the tool's language and back, and the difference between the rules
  there should be and those there are: pure as well.
* ``others``, ``refusals``: what in others' firewalls keeps our packets back; ``fate`` what a table does to one kind of
  packet, ``native`` nft's tables in its words: pure.
* ``husks``: iptables' tables that were not there before, made and taken away: pure.
* ``standstill``: what was found out is known for as long as nobody changes a rule.
* ``reconciler``: :class:`Firewall`, which reads, compares and writes only what differs, by the tools that
  :mod:`overlay.linux.netfilter` finds and runs.

Chains, comments and table names are flannel's, so flanneld and this agent replace each other's rules and never double
them; a second agent on the machine, with another device, has names of its own (``model.Names``). Rules of others are
read (to find the right place for ours) and never written.
"""

from __future__ import annotations

from overlay.node.firewall.model import EMPTY, Ruleset, desired_rules
from overlay.node.firewall.reconciler import Firewall

__all__ = ["EMPTY", "Firewall", "Ruleset", "desired_rules"]
