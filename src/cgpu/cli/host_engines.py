"""Engines whose OCI runtime uses the version that is installed on the host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cgpu.adapters.host.layout import HostLayout
    from cgpu.adapters.host_files import Change


def engines_of(layout: HostLayout) -> list[str]:
    """Their names. Only the usual folders of `cgpu runtime install` are looked at."""
    from cgpu.adapters.engines.installation import ENGINES, FOLDER, Installation
    from cgpu.adapters.host.layout import PROGRAMS

    return [
        name
        for name, engine in ENGINES.items()
        if Path(
            Installation(engine, engine.default_config, layout.at(FOLDER / name)).settings().get("python", "")
        ).is_relative_to(PROGRAMS)
    ]


def engine_updates(layout: HostLayout) -> list[Change]:
    """This version's program for each of them. Its settings go on leading to the version in use."""
    from cgpu.adapters.engines.installation import FOLDER, PROGRAM
    from cgpu.adapters.host_files import Write
    from cgpu.cli.runtime import runtime_program

    names = engines_of(layout)
    content = runtime_program() if names else b""
    return [Write(layout.at(FOLDER / name / PROGRAM), content, 0o755) for name in names]
