"""What CDI's SPEC.md (1.1.0) asks of a specification, as JSON Schema: the part that versions up to 0.5.0 know.

Engines refuse fields that they do not know, so nothing beyond it may be written under such a version.
"""

from __future__ import annotations

from typing import Any, Final

import jsonschema

_NAME: Final = "[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
_CLASS: Final = "[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?"  # dots from 0.6.0 on
_DEVICE: Final = {
    "0.3.0": "[A-Za-z]([A-Za-z0-9_.:-]*[A-Za-z0-9])?",
    "0.5.0": "[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?",
}
_TEXT: Final = {"type": "string", "minLength": 1}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


def _schema(version: str) -> dict[str, Any]:
    mount = _object(
        ("hostPath", "containerPath"),
        hostPath={"type": "string", "pattern": "^/"},
        containerPath={"type": "string", "pattern": "^/"},
        options=_list(_TEXT),
    )
    hook = _object(
        ("hookName", "path"),
        hookName={"enum": ["createRuntime", "createContainer", "startContainer", "poststart", "poststop"]},
        path={"type": "string", "pattern": "^/"},
        args=_list(_TEXT),
        env=_list({"type": "string", "pattern": "^[^=]+=.*"}),
        timeout={"type": "integer", "minimum": 0},
    )
    path: dict[str, Any] = {"type": "string", "pattern": "^/"}
    elsewhere = {"hostPath": path} if version == "0.5.0" else {}
    edits = {
        **_object(
            (),
            env=_list({"type": "string", "pattern": "^[^=]+=.*"}),
            mounts=_list(mount, 1),
            hooks=_list(hook),
            deviceNodes=_list(_object(("path",), path=path, **elsewhere), 1),
        ),
        "minProperties": 1,  # a device without edits is refused
    }
    device = _object(
        ("name", "containerEdits"), name={"type": "string", "pattern": f"^{_DEVICE[version]}$"}, containerEdits=edits
    )
    return _object(
        ("cdiVersion", "kind", "devices"),
        cdiVersion={"const": version},
        kind={"type": "string", "pattern": f"^{_NAME}/{_CLASS}$"},
        devices=_list(device, 1),
    )


VALIDATORS: Final = {version: jsonschema.Draft202012Validator(_schema(version)) for version in _DEVICE}
"""By the version that a file says."""
