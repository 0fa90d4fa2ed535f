"""A helper process that parses what strangers send: it gives up every right before it reads the first byte.

Whose idea it is to run one makes a :class:`~overlay.daemon.confined.helper.Helper` of it: what it runs (a
:class:`~overlay.daemon.confined.process.Command`), and how the two talk over its control socket. What they say to each
other is theirs; a message that does not decode must spoil nothing.

The daemon's side: ``helper`` one over all its lives · ``process`` one life, from its start to its last words ·
``supervision`` keeps one alive · ``control`` what the two say to each other, message by message.
The helper's side: ``inside`` what it was given, and the door that it shuts behind itself · ``privileges`` user,
capabilities, limits · ``seccomp`` the system calls that remain.
"""
