"""Proof that the tests would notice mistakes in the control plane: each mutant is today's code with one text replaced,
and has to be caught.

By the simulation within the seeds that ``make test`` runs, wherever a cluster can come to notice; by the tests that are
named in the table where it cannot: what talks to a real etcd, what reads others' JSON.

``make mutants`` runs them all; ``python -m tests.mutation WORD…`` those whose file or text has the words.
"""
