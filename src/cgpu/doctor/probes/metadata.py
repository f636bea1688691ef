"""The instance type as the cloud's metadata service tells it. Only asked when somebody wants it.

The address and both modes are documented by Alibaba Cloud under "Instance metadata": hardened mode
wants a token first, normal mode does without. An instance may allow the hardened mode only.
"""

from __future__ import annotations

import http.client
import time
from typing import Final

from cgpu.compat.versions import instance_family
from cgpu.doctor.facts import Fact
from cgpu.doctor.probes.node import quoted
from cgpu.doctor.probes.tree import reason
from cgpu.errors import FactError

ADDRESS: Final = ("100.100.100.200", 80)
SECONDS: Final = 1.0
_TOKEN: Final = "/latest/api/token"
_INSTANCE_TYPE: Final = "/latest/meta-data/instance/instance-type"
_TOKEN_SECONDS: Final = "60"
_ANSWER_MAX: Final = 1024  # bytes


def instance_type(address: tuple[str, int] = ADDRESS, seconds: float = SECONDS) -> Fact:
    """Ask, for at most ``seconds`` altogether; not through a proxy, which would tell of itself."""
    how = f"http://{address[0]}{_INSTANCE_TYPE}"
    deadline = time.monotonic() + seconds
    try:
        token = _ask(address, "PUT", _TOKEN, {"X-aliyun-ecs-metadata-token-ttl-seconds": _TOKEN_SECONDS}, deadline)
        headers = {} if token is None or not token.isascii() else {"X-aliyun-ecs-metadata-token": token}
        text = _ask(address, "GET", _INSTANCE_TYPE, headers, deadline)
    except TimeoutError:
        return Fact(None, f"{how}: no answer within {seconds:g} s")
    except OSError as error:
        return Fact(None, f"{how}: {reason(error)}")
    except (http.client.HTTPException, ValueError):
        return Fact(None, f"{how}: not an answer of a metadata service")
    if text is None:
        return Fact(None, f"{how}: the metadata service does not tell it")
    try:
        instance_family(text)
    except FactError:
        return Fact(None, f"{how}: not an instance type: {quoted(text)}")
    return Fact(text, how)


def _ask(address: tuple[str, int], method: str, path: str, headers: dict[str, str], deadline: float) -> str | None:
    """The text of the answer, None when it is not 200. A token is refused where only the normal mode exists."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    connection = http.client.HTTPConnection(*address, timeout=remaining)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        text = answer.read(_ANSWER_MAX + 1)
    finally:
        connection.close()
    if answer.status != http.client.OK:
        return None
    if len(text) > _ANSWER_MAX:
        raise ValueError(f"more than {_ANSWER_MAX} bytes")
    return text.decode().strip()
