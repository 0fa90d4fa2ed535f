"""The agent of one node: what it was started with, what it remembers, and how its parts are run."""
