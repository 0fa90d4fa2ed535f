"""Many agents, one faulty store, a clock that is only a number; and a checker of what must hold throughout.

``python -m tests.simulation --seeds 1000`` runs seeds; ``--seed N`` replays one with a trace.
"""
