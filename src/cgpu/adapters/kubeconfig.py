"""Which kubeconfig holds, and what its context says. Reads files; knows no network.

The rules are kubectl's: a file that is named; else those of ``KUBECONFIG``, separated by colons,
merged so that the first to name a thing wins; else ``~/.kube/config``. Paths in a file are relative
to its folder (kubernetes.io, "Organizing Cluster Access Using kubeconfig Files").
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cgpu.errors import ClusterError

VARIABLE: Final = "KUBECONFIG"
_SECTIONS: Final = {"clusters": "cluster", "contexts": "context", "users": "user"}
_CLUSTER_PATHS: Final = ("certificate-authority",)
_USER_PATHS: Final = ("client-certificate", "client-key", "tokenFile")
_LARGEST_BYTES: Final = 4 << 20
_NAMES_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Access:
    """What a context says, as the file has it, with absolute paths."""

    cluster: Mapping[str, Any]
    user: Mapping[str, Any]
    namespace: str
    source: str
    """The file or files, for messages."""


def kubeconfig_files(named: Path | None, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that hold; none where there is no kubeconfig at all. Raises ClusterError for one that is missing."""
    if named is not None:
        if not named.is_file():
            raise ClusterError(f"there is no kubeconfig {named}", "give its path with --kubeconfig")
        return (named,)
    if environment.get(VARIABLE):
        paths = tuple(Path(part) for part in environment[VARIABLE].split(os.pathsep) if part)
        present = tuple(path for path in paths if path.is_file())
        if not present:
            missing = ", ".join(map(str, paths))
            raise ClusterError(f"{VARIABLE} names no file that exists: {missing}", "correct it, or give --kubeconfig")
        return present
    default = Path(environment.get("HOME") or Path.home()) / ".kube" / "config"
    return (default,) if default.is_file() else ()


def read_access(files: Sequence[Path], context: str | None) -> Access:
    """What the context (the current one, when None) of the merged files says.

    Raises ClusterError, which names the file, for malformed files, and for names that nothing has.
    """
    source = ", ".join(map(str, files))
    merged: dict[str, dict[str, Mapping[str, Any]]] = {section: {} for section in _SECTIONS}
    current = ""
    for file in files:
        document = _document(file)
        current = current or str(document.get("current-context") or "")
        for section, key in _SECTIONS.items():
            for name, value in _named(document, section, key, file).items():
                merged[section].setdefault(name, value)
    wanted = current if context is None else context
    if not wanted:
        raise ClusterError(f"{source} has no current context", f"give --context{_choice(merged['contexts'])}")
    chosen = _lookup(merged["contexts"], "context", wanted, source)
    cluster = _lookup(merged["clusters"], "cluster", str(chosen.get("cluster") or ""), source)
    if not isinstance(cluster.get("server"), str):
        raise ClusterError(f"{source}: the cluster of context {wanted!r} has no server", "add it to the kubeconfig")
    user = _lookup(merged["users"], "user", str(chosen["user"]), source) if chosen.get("user") else {}
    return Access(cluster, user, str(chosen.get("namespace") or "default"), source)


def _document(file: Path) -> Mapping[str, Any]:
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise ClusterError(f"{file} cannot be read: {error.strerror}", "make it readable for this user") from error
    if len(content) > _LARGEST_BYTES:
        raise _malformed(file, f"it is larger than {_LARGEST_BYTES >> 20} MiB")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise _malformed(file, f"{where}{getattr(error, 'problem', None) or error}") from error
    if not isinstance(document, dict):
        raise _malformed(file, "it is not a mapping")
    return document


def _named(document: Mapping[str, Any], section: str, key: str, file: Path) -> dict[str, Mapping[str, Any]]:
    entries = document.get(section) or []
    if not isinstance(entries, list):
        raise _malformed(file, f"{section} is not a list")
    named: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or "name" not in entry or not isinstance(entry.get(key) or {}, dict):
            raise _malformed(file, f"an entry of {section} is not a name with a {key}")
        named.setdefault(str(entry["name"]), _absolute(entry.get(key) or {}, key, file))
    return named


def _absolute(value: Mapping[str, Any], key: str, file: Path) -> Mapping[str, Any]:
    """With its paths relative to the file's folder made absolute."""
    paths = {"cluster": _CLUSTER_PATHS, "user": _USER_PATHS}.get(key, ())
    folder = file.absolute().parent
    result = {**value, **{name: str(folder / str(value[name])) for name in paths if value.get(name)}}
    plugin = value.get("exec")
    # A plain name is looked for in PATH.
    if key == "user" and isinstance(plugin, dict) and "/" in str(plugin.get("command")):
        result["exec"] = {**plugin, "command": str(folder / str(plugin["command"]))}
    return result


def _lookup(entries: Mapping[str, Mapping[str, Any]], kind: str, name: str, source: str) -> Mapping[str, Any]:
    if name not in entries:
        raise ClusterError(f"{source} has no {kind} {name!r}", f"correct it{_choice(entries)}")
    return entries[name]


def _choice(entries: Mapping[str, object]) -> str:
    names = sorted(entries)[:_NAMES_SHOWN]
    more = ", …" if len(entries) > _NAMES_SHOWN else ""
    return f"; there is {', '.join(names)}{more}" if names else ""


def _malformed(file: Path, why: str) -> ClusterError:
    return ClusterError(f"{file} is not a kubeconfig: {why}", "mend it, or fetch a new one")
