"""``overlay lab bench``: how fast each way from pod to pod is, in one run, on this machine.

* ``scenarios``: what is compared and what is measured, as data.
* ``stage``: a lab for every way, made before the first measurement.
* ``probes``: the measurements; each a small function from two endpoints to numbers; ``load``: what runs beside them.
* ``results``: medians and ratios; pure.
* ``run``: the loop; ``report`` and ``plot``: the table and the picture.

All nodes, agents and both ends of every transfer share this machine's cores, so a figure alone means little. What
holds is the *ratio* of two ways in the same round: the ways take turns within every round, so that what else the
machine does in that time falls on all of them alike.
"""
