"""``cgpu k8s manifests``: what the Helm chart installs, without Helm."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cgpu.cli.parsers import Subparsers, add_verb
from cgpu.errors import UsageError
from cgpu.settings import Settings

if TYPE_CHECKING:
    from cgpu.k8s.chart import Manifest

EXAMPLES = """\
examples:
  cgpu k8s manifests | kubectl apply -f -      what `helm install cgpu` makes in the namespace cgpu-system
  cgpu k8s manifests --set simulated.enabled=true --output manifests     a file for each object
  cgpu k8s manifests --show-values             all values with their defaults
"""
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?")


def add_manifests(actions: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the sub-verb."""
    parser = add_verb(actions, "manifests", run, "print what the Helm chart installs, without Helm", EXAMPLES)
    parser.add_argument("--name", default="cgpu", help="of the installation, as Helm's release (default: cgpu)")
    parser.add_argument("--namespace", default="cgpu-system", help="of webhook and controller (default: cgpu-system)")
    values = parser.add_argument_group("values, as for Helm; the later win, and --set over files")
    values.add_argument(
        "--values", metavar="FILE", type=Path, action="append", default=[], help="YAML; may be repeated"
    )
    values.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a.b=1,c={x,y},d[0].e=text")
    values.add_argument(
        "--set-string", metavar="NAME=VALUE", action="append", default=[], help="the same, and every value is a text"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--output", metavar="DIR", type=Path, help="write a file for each object there")
    output.add_argument("--show-values", action="store_true", help="print all values with their defaults, and end")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print or write."""
    del settings
    from cgpu.k8s.chart import Chart, Release

    chart = Chart()
    if options.show_values:
        sys.stdout.write(chart.default_values())
        return 0
    for option in ("name", "namespace"):
        if not _NAME.fullmatch(getattr(options, option)):
            said = f"--{option} is {getattr(options, option)!r}"
            raise UsageError(said, "it is up to 53 small letters, digits and dashes, such as cgpu-system")
    manifests = chart.render(Release(options.name, options.namespace), _values(options))
    if options.output:
        _write(manifests, options.output)
    else:
        sys.stdout.writelines(_text(manifest) for manifest in manifests)
    return 0


def _values(options: argparse.Namespace) -> dict[str, Any]:
    from cgpu.k8s.chart_values import merged, set_in

    values: dict[str, Any] = {}
    for path in options.values:
        values = merged(values, _read(path))
    for text in options.set:
        set_in(values, text)
    for text in options.set_string:
        set_in(values, text, strings=True)
    return values


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        read = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", "it is a file of YAML such as --show-values prints"
        ) from None
    if not isinstance(read, dict | None):
        raise UsageError(f"{path} has no values", "it is an object, such as --show-values prints")
    return read or {}


def _text(manifest: Manifest) -> str:
    return f"---\n# Source: {manifest.source}\n{manifest.text}"


def _write(manifests: Sequence[Manifest], folder: Path) -> None:
    """Numbered, since `kubectl apply -f DIR` goes by the names; nothing of an earlier time may be among them."""
    texts = {
        f"{number:02}-{manifest.kind.lower()}-{manifest.name}.yaml": _text(manifest)
        for number, manifest in enumerate(manifests)
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in folder.glob("*.yaml") if path.name not in texts)
        if others:
            said = f"{folder} has other manifests: {', '.join(others)}"
            raise UsageError(said, "delete them, or name another folder")
        for name, text in texts.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}", "name another folder") from error
