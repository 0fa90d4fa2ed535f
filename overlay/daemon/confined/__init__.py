"""A helper process that parses what strangers send: it gives up every right before it reads the first byte.

``privileges`` user, capabilities, limits · ``seccomp`` the system calls that remain.
"""
