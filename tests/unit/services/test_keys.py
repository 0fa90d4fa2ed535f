"""The keys of objects, pods and what they take."""

from __future__ import annotations

import pytest

from overlay.services.keys import Keys, ObjectKey, PodKey


@pytest.mark.parametrize("prefix", ["/overlay", "/overlay/"])
def test_a_slash_at_the_end_of_the_prefix_is_the_same(prefix: str) -> None:
    assert Keys(prefix).config == "/overlay/config"
    assert Keys(prefix).objects("services") == "/overlay/objects/services/"


@pytest.mark.parametrize(
    ("namespaced", "expected"),
    [(True, ObjectKey("services", "default", "redis")), (False, ObjectKey("namespaces", "", "default"))],
)
def test_an_objects_key_is_read_as_it_was_written(namespaced: bool, expected: ObjectKey) -> None:
    key = Keys().object(expected.resource, expected.namespace, expected.name)
    assert Keys().parse_object(key, namespaced) == expected
    assert key.startswith(Keys().objects(expected.resource, expected.namespace))


def test_a_pods_key_is_read_as_it_was_written() -> None:
    assert Keys().parse_pod(Keys().pod("n1", "abc")) == PodKey("n1", "abc")


@pytest.mark.parametrize("rest", ["", "services", "services/", "services/a", "services//b", "services/a/b/c", "x/y/"])
def test_an_objects_key_of_another_form_is_none(rest: str) -> None:
    assert Keys().parse_object(f"/overlay/objects/{rest}", namespaced=True) is None


@pytest.mark.parametrize(
    "key", ["/overlay/pods/", "/overlay/pods/n1", "/overlay/pods/n1/", "/overlay/pods/a/b/c", "/x"]
)
def test_a_pods_key_of_another_form_is_none(key: str) -> None:
    assert Keys().parse_pod(key) is None
