"""Every reader of etcd's bytes, on whatever bytes: nothing ends an agent, and what is skipped is named."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.keys import LEASES, Target, run

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)
NAMES = st.sampled_from(("PublicIP", "PublicIPv6", "NodeID", "BackendType", "BackendData", "Network", "Backend"))


def test_mutations_of_leases_and_configs() -> None:
    assert run(20_000, seed=3) > 5000


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=200), st.binary(max_size=200)), max_size=5))
@example([("10.0.1.0-24", b'{"PublicIP":' + b'{"a":' * 994 + b"1" + b"}" * 994 + b"}")])
@example([("1" * 200_000, b""), ("10.0.1.0-24" * 10_000, b"{}")])
@settings(max_examples=300)
def test_any_keys_and_bytes(items: list[tuple[str, bytes]]) -> None:
    Target().feed(items, [value for _, value in items])


@given(st.dictionaries(NAMES, JSON, min_size=1))
@settings(max_examples=300)
def test_any_json_in_members_that_are_known(members: dict[str, object]) -> None:
    value = json.dumps(members).encode()
    Target().feed([("10.0.1.0-24", value), ("10.0.2.0-24", LEASES[0].encode())], [value])


def test_every_depth_around_what_a_decoder_takes() -> None:
    """At one of them, which one depends on the caller, a decoder's stack is enough and that of whoever shows it not."""
    target = Target()
    for depth in (*range(90, 110), *range(900, 1010), 5000):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            inner = opening * depth + "1" + closing * depth
            for name in ("PublicIP", "NodeID", "BackendData", "unknown"):
                target.feed([("10.0.1.0-24", f'{{"PublicIP":"1.2.3.4","{name}":{inner}}}'.encode())])
            target.feed([], [f'{{"Network":"10.0.0.0/8","Backend":{{"Type":"vxlan","x":{inner}}}}}'.encode()] * 2)
