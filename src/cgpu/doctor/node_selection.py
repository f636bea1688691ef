"""Which nodes a pod may be placed on by its node selector and its required node affinity. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class NodeSelection:
    """What a pod's specification says of nodes (Kubernetes API: nodeSelector, NodeAffinity)."""

    selector: Mapping[str, str] = field(default_factory=dict)
    terms: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    """Alternatives of required node affinity, each all of its expressions; none: no affinity is required."""

    def chooses(self, labels: Mapping[str, str], node: str) -> bool:
        """Whether a node of these labels is chosen."""
        named = {**labels, "metadata.name": node}
        return all(labels.get(key) == value for key, value in self.selector.items()) and (
            not self.terms or any(term and all(_matches(named, rule) for rule in term) for term in self.terms)
        )


def selection_of(spec: Mapping[str, Any]) -> NodeSelection:
    """The selection of a pod's specification."""
    affinity = _mapping(_mapping(spec.get("affinity")).get("nodeAffinity"))
    required = _mapping(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    terms = tuple(
        tuple(rule for key in ("matchExpressions", "matchFields") for rule in term.get(key) or ())
        for term in required.get("nodeSelectorTerms") or ()
    )
    selector = {str(key): str(value) for key, value in _mapping(spec.get("nodeSelector")).items()}
    return NodeSelection(selector, terms)


def _matches(labels: Mapping[str, str], rule: Mapping[str, Any]) -> bool:
    """One expression of a node selector (Kubernetes API, NodeSelectorRequirement)."""
    value, operator = labels.get(str(rule.get("key"))), rule.get("operator")
    values = [str(item) for item in rule.get("values") or ()]
    if operator in ("Exists", "DoesNotExist"):
        return bool((value is not None) == (operator == "Exists"))
    if operator in ("In", "NotIn"):
        return bool((value in values) == (operator == "In"))
    try:
        given, bound = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return given > bound if operator == "Gt" else operator == "Lt" and given < bound


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
