"""Label and field selectors."""

from __future__ import annotations

import pytest

from overlay.services.objects import selectors
from overlay.services.objects.kinds import EVENT, POD, SERVICE, Kind
from overlay.services.objects.status import StatusError

LABELS = {"app": "redis", "tier": "back", "empty": ""}


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("", True), ("app=redis", True), ("app==redis", True), ("app!=redis", False), ("other!=x", True),
        ("app", True), ("!app", False), ("!other", True), ("other", False), ("empty=", True), ("app=", False),
        ("app in (redis,web)", True), ("app in ( redis , web )", True), ("app notin (redis)", False),
        ("other notin (x)", True), ("other in (x)", False), ("app=redis,tier=back", True),
        ("app in (redis,web),tier!=back", False), ("app=redis, !other", True), ("empty in ()", True),
    ],
)  # fmt: skip
def test_a_label_selector(text: str, taken: bool) -> None:
    assert selectors.matches(selectors.parse_labels(text), LABELS) is taken


@pytest.mark.parametrize("text", ["a=b=c", "a in b", "in (a)", "a>1", ",", "a,,b", "a b", "x" * 20_000])
def test_what_is_no_label_selector(text: str) -> None:
    with pytest.raises(StatusError) as raised:
        selectors.parse_labels(text)
    assert raised.value.code == 400


_OBJECT = {
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"nodeName": "n1"},
    "status": {"phase": "Running"},
    "involvedObject": {"name": "redis"},
    "source": {"component": "x"},
}


@pytest.mark.parametrize(
    ("kind", "text", "taken"),
    [
        (POD, "metadata.name=web", True), (POD, "metadata.name!=web", False),
        (POD, "spec.nodeName=n1,status.phase!=Succeeded,status.phase!=Failed", True),
        (POD, "spec.nodeName==n2", False), (SERVICE, "metadata.namespace=default", True),
        (EVENT, "involvedObject.name=redis,involvedObject.uid=", True), (EVENT, "source=x", True), (POD, "", True),
    ],
)  # fmt: skip
def test_a_field_selector(kind: Kind, text: str, taken: bool) -> None:
    assert selectors.selector(kind, "", text)(_OBJECT) is taken


@pytest.mark.parametrize(("kind", "text"), [(SERVICE, "spec.nodeName=n1"), (POD, "status.phase"), (POD, "a.b>1")])
def test_a_field_that_there_is_no_selector_for(kind: Kind, text: str) -> None:
    with pytest.raises(StatusError) as raised:
        selectors.selector(kind, "", text)
    assert raised.value.code == 400


def test_a_selector_of_a_document() -> None:
    document = {"matchLabels": {"app": "redis"}, "matchExpressions": [{"key": "other", "operator": "DoesNotExist"}]}
    assert selectors.matches(selectors.from_document(document), LABELS)
    assert selectors.matches(selectors.from_document({}), {})
    document["matchLabels"] = {"app": "web"}
    assert not selectors.matches(selectors.from_document(document), LABELS)
