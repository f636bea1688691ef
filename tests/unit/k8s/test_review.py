from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cgpu.errors import AmountError, UsageError
from cgpu.k8s.review import Answer, Request, allowed, parse_review, refused

REQUEST = {
    "uid": "u",
    "kind": {"kind": "Pod"},
    "namespace": "team",
    "operation": "CREATE",
    "object": {"metadata": {"generateName": "web-"}},
    "oldObject": None,
    "dryRun": True,
}


def review(**changes: Any) -> bytes:
    document = {"apiVersion": "admission.k8s.io/v1", "request": {**REQUEST, **changes}}
    return json.dumps(document).encode()


def test_a_review_is_read():
    request = parse_review(review())
    assert request == Request(
        "u", "Pod", "team", "", "CREATE", {"metadata": {"generateName": "web-"}}, None, dry_run=True
    )
    assert request.where == "Pod team/web-"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"apiVersion": "admission.k8s.io/v1"}',
        b'{"apiVersion": "admission.k8s.io/v1", "request": []}',
        b"[" * 100_000,
        review(uid=1),
        review(object=None),
        review(object=[]),
        review(oldObject=[1]),
        review(kind="Pod"),
        review().replace(b"io/v1", b"io/v1beta1"),
        b"\xff",
    ],
)
def test_what_is_no_review_is_refused(body: bytes):
    with pytest.raises(UsageError):
        parse_review(body)


def test_a_patch_is_told_as_the_api_server_wants_it():
    patch = [{"op": "remove", "path": "/a"}]
    answer = json.loads(allowed("u", Answer(patch, ["w" * 1000])))
    response = answer["response"]
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u", True, "JSONPatch")
    assert json.loads(base64.b64decode(response["patch"])) == patch
    assert len(response["warnings"][0]) == 256
    assert "patch" not in json.loads(allowed("u", Answer()))["response"]


def test_a_refusal_tells_cause_way_out_and_code():
    response = json.loads(refused("u", AmountError("it is 33", "write 35")))["response"]
    assert response["allowed"] is False
    assert response["status"] == {"code": 403, "message": "it is 33; write 35 [CGPU-AMOUNT]"}
