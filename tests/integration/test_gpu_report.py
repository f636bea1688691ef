"""A run of tests/gpu leaves its report: what it ran on, and no name of this machine's."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

from native import build


def test_a_run_on_the_simulated_card_leaves_a_report_that_says_so(tmp_path: Path):
    target = tmp_path / "card.json"
    which = ["-n", "0", "--on-simulated", "tests/gpu/test_memory.py", "-k", "estimate_of_a_context"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *which, "--report", str(target)]
    done = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert f"in full: {target} and card.md" in done.stdout
    told = json.loads(target.read_text())
    assert told["simulated"] is True
    assert told["totals"] == {"passed": 1, "failed": 0, "skipped": 0}
    about = told["about"]
    assert (about["memory_layer"], about["compute_layer"]) == ("shim", "slots")
    assert about["kernel"] == f"Linux {platform.release()}"
    assert all(about[key] for key in ("card", "memory_bytes", "driver", "cgroups", "machine", "cgpu"))
    assert [figure["name"] for figure in told["checks"][0]["findings"]["figures"]] == ["corrected after"]
    text = target.with_suffix(".md").read_text()
    assert text.startswith("# cgpu on a SIMULATED GPU")
    for said in (text, target.read_text()):
        assert str(build.ROOT) not in said
        assert not re.search(rf"\b{re.escape(platform.node())}\b", said)
