"""What the worker counts: name and sentence, for ``overlay services --status``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

CATALOGUE: Mapping[str, str] = MappingProxyType(
    {
        "asked": "questions, by UDP and TCP",
        "kept": "answered from encoded answers",
        "answered": "answered from what is known of the cluster",
        "remembered": "answered from what upstreams said before",
        "stale": "answered from what upstreams said too long ago, because none of them answers",
        "forwarded": "questions that upstreams were asked",
        "upstream_silent": "upstreams' answers that did not come in time",
        "upstream_wrong": "datagrams from upstreams that are no answer to our question",
        "failed": "answered that no upstream could tell (SERVFAIL)",
        "not_ready": "answered that the cluster's names are not known yet (SERVFAIL)",
        "malformed": "datagrams and messages that are no question",
        "strangers": "questions of others than this node's containers and itself, not answered",
        "too_many": "questions of clients that ask too much, not answered",
        "unsent": "answers that the client's socket did not take",
        "control_malformed": "instructions that did not decode",
    }
)


class Counts(Counter[str]):
    """One number for each name of the catalogue."""

    def snapshot(self) -> dict[str, int]:
        """All of them, also those that are zero."""
        return {name: self[name] for name in CATALOGUE}
