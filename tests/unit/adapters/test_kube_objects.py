"""Whatever stands before the API server and answers in its place: all that comes of it is ClusterError."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from cgpu.adapters.kube_objects import PODS, ExpiredError, ObjectClient
from cgpu.errors import ClusterError

DEEP = "[" * 200_000
FOREIGN = ["", "<html>", "[]", "{}", "null", DEEP, '{"metadata": null}', '{"metadata": []}', "\udc80"]
LISTS = [
    '{"metadata": {}}',
    '{"metadata": {"resourceVersion": 7}}',
    '{"metadata": {"resourceVersion": "7"}, "items": {"a": 1}}',
    '{"metadata": {"resourceVersion": "7"}, "items": 3}',
    '{"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {}}]}',
]
EVENTS = [
    '{"type": "ADDED"}',
    '{"type": 1, "object": {"metadata": {"name": "a", "resourceVersion": "1"}}}',
    '{"type": "ADDED", "object": []}',
    '{"type": "ADDED", "object": {"metadata": {"name": "a"}}}',
    '{"type": "ADDED", "object": {"metadata": {"resourceVersion": "1"}}}',
    '{"type": "BOOKMARK", "object": {"metadata": {}}}',
    '{"type": "ERROR", "object": {"code": [], "message": 7}}',
]


def client(text: str, status: int = 200) -> ObjectClient:
    """Of a server that answers everything with that."""
    content = text.encode(errors="surrogateescape")
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, content=content))
    return ObjectClient(httpx2.Client(base_url="http://api", transport=transport))


@pytest.mark.parametrize("text", [*FOREIGN, *LISTS])
def test_what_is_no_list_is_told(text: str):
    with client(text) as api, pytest.raises(ClusterError, match="not the Kubernetes API"):
        api.list(PODS)


@pytest.mark.parametrize("text", FOREIGN)
def test_what_is_no_object_is_told(text: str):
    with client(text) as api:
        with pytest.raises(ClusterError, match="not the Kubernetes API"):
            api.get(PODS, "team", "a")
        with pytest.raises(ClusterError, match="not the Kubernetes API"):
            api.create(PODS, {}, "team")


@pytest.mark.parametrize("text", [*FOREIGN[1:], *EVENTS])
def test_what_is_no_change_ends_the_watch_and_is_told(text: str):
    with client(f"{text}\n") as api, pytest.raises(ClusterError):
        list(api.watch(PODS, "1"))


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize("status", [404, 410, 500])
def test_a_refusal_is_one_whatever_it_says(text: str, status: int):
    with client(text, status) as api, pytest.raises(ClusterError) as told:
        list(api.watch(PODS, "1"))
    assert isinstance(told.value, ExpiredError) == (status == 410)


def test_what_the_server_does_say_is_read():
    item: dict[str, Any] = {"metadata": {"name": "a", "resourceVersion": "3"}}
    with client(json.dumps({"metadata": {"resourceVersion": "7"}, "items": [item]})) as api:
        assert api.list(PODS) == ([item], "7")
    with client(json.dumps({"metadata": {"resourceVersion": "7"}, "items": None})) as api:
        assert api.list(PODS) == ([], "7")
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}
    lines = "".join(json.dumps(row) + "\n" for row in ({"type": "ADDED", "object": item}, bookmark))
    with client(lines) as api:
        assert list(api.watch(PODS, "1")) == [("ADDED", item), ("BOOKMARK", bookmark["object"])]
