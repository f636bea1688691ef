"""Our Helm chart rendered without Helm: the same objects from the same files.

The chart's own templates stay the one source of what is installed: they come with the package and are evaluated here
(`chart_template.py`), rather than written a second time in Python or kept as text that Helm once made, which would
need a variant for every condition in them. Of Go's template language they use so little that this costs less.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cgpu.k8s.chart_template import Templates
from cgpu.k8s.chart_values import Values, merged, refuse_what_is_not_allowed, without_null

_PACKAGED: Final = Path(__file__).with_name("chart")  # put there when a wheel is made
_OURS: Final = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "deploy" / "helm" / "cgpu"
_SEPARATOR: Final = re.compile(r"^---\s*$", re.MULTILINE)
_HOOK: Final = "helm.sh/hook"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object, as text with the chart's comments."""

    kind: str
    name: str
    text: str
    source: str
    """The template's path, as Helm names it."""


@dataclass(frozen=True, slots=True)
class Release:
    """What Helm calls a release: an installation of the chart under a name, in a namespace."""

    name: str
    namespace: str


class Chart:
    """A chart; unless a folder is given, the one that comes with this package."""

    def __init__(self, folder: Path = _OURS) -> None:
        self._folder = folder

    def default_values(self) -> str:
        """The file of all values with their defaults and what they mean."""
        return (self._folder / "values.yaml").read_text()

    def render(self, release: Release, changes: Values) -> Sequence[Manifest]:
        """All objects but Helm's hooks, in an order in which they can be created.

        Raises UsageError for values that the chart does not allow.
        """
        values = without_null(merged(yaml.safe_load(self.default_values()), changes))
        refuse_what_is_not_allowed(values, json.loads((self._folder / "values.schema.json").read_text()))
        folder = self._folder / "templates"
        templates = Templates({path.name: path.read_text() for path in sorted(folder.iterdir())})
        scope = {"Values": values, "Release": _release(release), "Chart": self._metadata()}
        manifests = [
            manifest
            for path in sorted(folder.glob("*.yaml"))
            for manifest in _manifests(templates.render(path.name, scope), f"cgpu/templates/{path.name}")
        ]
        return sorted(manifests, key=lambda manifest: manifest.kind != "Namespace")

    def _metadata(self) -> dict[str, str]:
        """Chart.yaml, whose names templates write with a capital."""
        read: dict[str, Any] = yaml.safe_load((self._folder / "Chart.yaml").read_text())
        return {key[0].upper() + key[1:]: value for key, value in read.items()}


def _release(release: Release) -> dict[str, str]:
    return {"Name": release.name, "Namespace": release.namespace, "Service": "Helm"}


def _manifests(rendered: str, source: str) -> list[Manifest]:
    found = []
    for text in _SEPARATOR.split(rendered):
        document = yaml.safe_load(text)
        if document is None or _HOOK in (document["metadata"].get("annotations") or {}):
            continue
        found.append(Manifest(document["kind"], document["metadata"]["name"], text.strip("\n") + "\n", source))
    return found
