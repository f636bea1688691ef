"""One file for whoever helps: the facts, the checks, and the files behind them, without secrets."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from cgpu.doctor.facts import KINDS, Facts
from cgpu.doctor.facts_file import as_json
from cgpu.doctor.probes import files
from cgpu.doctor.probes.commands import PACKAGES
from cgpu.doctor.probes.files import collected
from cgpu.doctor.probes.packages import paragraphs_of
from cgpu.doctor.probes.tree import Tree, UnknownError
from cgpu.doctor.redaction import REDACTED, redact, redact_json
from cgpu.errors import UsageError

AGENT_LOG: Final = "run/cgpu/agent.log"
FOLDER: Final = "cgpu-bundle"
"""The folder that a bundle unpacks to; what is in its ``node`` can be given to ``cgpu doctor --root``."""

_LOG_BYTES: Final = 1 << 20  # its end
_NO_ENVIRONMENT: Final = files.OS_RELEASE
_README: Final = f"""\
What `cgpu doctor` knows of a node.

facts.json    the facts, and how each is known; `cgpu doctor --facts facts.json` reads it
checks.json   the checks
node/         the files that the facts come from; `cgpu doctor --root node` reads them

Secrets, tokens, passwords, certificates, values of environment variables, credentials in URLs and public
IP addresses were replaced by {REDACTED}. Private and local IP addresses and the names of machines,
pods and images were kept, since the wiring of a cluster cannot be told without them: look through the files
before you give them away. Of the package database there are only the packages that matter here.
"""


def write_bundle(facts: Facts, checks: Any, root: Path, target: Path) -> tuple[str, ...]:
    """Write the bundle, a tar.gz that only its owner may read; returns the names in it.

    ``checks`` is what ``cgpu doctor --json`` prints of them, ``root`` the node's. The file appears
    whole or not at all. Raises UsageError when it exists already or cannot be written.
    """
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already", "name another file; a bundle replaces none")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        try:
            with _private_file(temporary) as file:
                names = _write(file, facts, checks, Tree(root))
                file.flush()
                os.fsync(file.fileno())
            _publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as error:
        raise UsageError(f"{target} exists already", "name another file; a bundle replaces none") from error
    except OSError as error:
        raise UsageError(f"{target}: {error.strerror}", "name a file in a folder that you may write to") from error
    return names


@contextlib.contextmanager
def _private_file(path: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file


def _publish(temporary: Path, target: Path) -> None:
    """Give it its name unless another file has taken it meanwhile."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(str(target)) from None
        temporary.rename(target)


def _write(file: IO[bytes], facts: Facts, checks: Any, tree: Tree) -> tuple[str, ...]:
    # Without times and owners: the same node gives the same bytes.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        names = []
        for name, data in _members(facts, checks, tree):
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.mode = 0o600
            member.size = len(data)
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(member, io.BytesIO(data))
            names.append(member.name)
    return tuple(names)


def _members(facts: Facts, checks: Any, tree: Tree) -> Iterator[tuple[str, bytes]]:
    yield "README", _README.encode()
    yield "facts.json", _as_text(redacted_facts(facts))
    yield "checks.json", _as_text(redact_json(checks))
    for file in collected(tree):
        if file.path.endswith("/"):
            yield f"node/{file.path}", b""
            continue
        text = _text_of(file.path, file.data)
        if text is not None:
            yield f"node/{file.path}", text.encode()
    log = _agent_log(tree)
    if log:
        yield f"node/{AGENT_LOG}", redact(log).encode()


def redacted_facts(facts: Facts) -> dict[str, Any]:
    """The facts as JSON without secrets. Versions, numbers and truth values can be none, and stay as they are."""
    document = as_json(facts)
    for name, fact in document["facts"].items():
        if KINDS[name].type in ("text", "list", "labels"):
            fact["value"] = redact_json(fact["value"])
        fact["how"] = redact(fact["how"])
    return document


def _text_of(path: str, data: bytes) -> str | None:
    """What of a file goes into the bundle: None of what is no text, such as the C library."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    if path == files.DPKG_STATUS:
        return paragraphs_of(text, PACKAGES)
    return redact(text, environment=path not in _NO_ENVIRONMENT)


def _agent_log(tree: Tree) -> str:
    """The end of our agent's log, from the beginning of a line on."""
    try:
        data = tree.read(AGENT_LOG, _LOG_BYTES, end=True)
    except UnknownError:
        return ""
    if len(data) == _LOG_BYTES:
        data = data.partition(b"\n")[2]
    return data.decode(errors="replace")


def _as_text(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode(errors="replace")
