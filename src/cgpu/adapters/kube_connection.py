"""The way to the Kubernetes API: a kubeconfig's context, or a pod's service account, as an HTTP client.

The only importer of lightkube, which makes the TLS trust. It and what it brings are imported when a
connection is made: other verbs do without them.
"""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cgpu import __version__
from cgpu.adapters.exec_credential import Credential, run_plugin
from cgpu.adapters.kubeconfig import Access, kubeconfig_files, read_access
from cgpu.errors import ClusterError

if TYPE_CHECKING:
    import httpx2

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S: Final = 60.0  # the API server's own limit of a request that is no watch
_CONNECT_TIMEOUT_S: Final = 10.0
_UNAUTHORIZED: Final = 401
_KEPT_S: Final = 60.0
"""An idle connection; the API server ends it after 90 s. A new one costs both sides more than most requests."""
_KEPT_MAX: Final = 20  # idle connections


def choose_access(kubeconfig: Path | None, context: str | None, account: Path = _SERVICE_ACCOUNT) -> Access:
    """The kubeconfig's context; in a pod without a kubeconfig, its service account. Raises ClusterError."""
    files = kubeconfig_files(kubeconfig, os.environ)
    if files:
        return read_access(files, context)
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
    if not host or not (account / "token").is_file():
        raise ClusterError("there is no kubeconfig", "give --kubeconfig FILE, or set KUBECONFIG")
    if context is not None:
        raise ClusterError("--context is of no use with a pod's service account", "leave it out, or give --kubeconfig")
    address = f"[{host}]" if ":" in host else host
    cluster = {"server": f"https://{address}:{port or 443}", "certificate-authority": str(account / "ca.crt")}
    namespace = account / "namespace"
    return Access(
        cluster,
        {"tokenFile": str(account / "token")},
        namespace.read_text().strip() if namespace.is_file() else "default",
        "the pod's service account",
    )


def open_client(access: Access, program: str) -> httpx2.Client:
    """A client of the access's server; nothing is sent yet. ``program`` is who asks, for the server's logs.

    Raises ClusterError: lightkube is missing, or the certificates or credentials cannot be used.
    """
    try:
        import httpx2
        import lightkube.config.client_adapter  # noqa: F401 - whether it is there
    except ImportError as error:
        raise ClusterError(
            f"reading from a Kubernetes cluster needs another package: {error}", "pip install 'cgpu[kubernetes]'"
        ) from error
    try:
        trust, auth = _credentials(access)
        return httpx2.Client(
            base_url=access.cluster["server"],
            verify=trust,
            auth=auth,
            timeout=httpx2.Timeout(_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_keepalive_connections=_KEPT_MAX, keepalive_expiry=_KEPT_S),
            proxy=access.cluster.get("proxy-url"),
            headers={"Accept": "application/json", "User-Agent": f"{program}/{__version__}"},
        )
    except (OSError, ValueError, TypeError, httpx2.InvalidURL) as error:
        # ssl.SSLError and what base64 raises are among them.
        raise ClusterError(
            f"{access.source}: its server, certificates or keys cannot be used: {error}", "fetch a new kubeconfig"
        ) from error


def _credentials(access: Access) -> tuple[ssl.SSLContext, httpx2.Auth | None]:
    """What is trusted, and how requests say who asks."""
    import msgspec
    from lightkube.config.client_adapter import user_auth, verify_cluster
    from lightkube.config.models import Cluster, User
    from lightkube.core.exceptions import ConfigError

    plugin = access.user.get("exec")
    with _data_as_files(access.cluster) as cluster, _data_as_files(access.user) as given:
        try:
            user = msgspec.convert({name: value for name, value in given.items() if name != "exec"}, User)
            trust = verify_cluster(msgspec.convert(cluster, Cluster), user, lambda path: path)
            if user.token_file is not None:
                return trust, _token_file_auth(Path(user.token_file))
            if isinstance(plugin, dict):
                return trust, _plugin_auth(plugin, access.cluster, trust)
            return trust, user_auth(user)
        except (msgspec.ValidationError, ConfigError) as error:
            raise ClusterError(
                f"{access.source} cannot be used: {error}", "use another context or kubeconfig"
            ) from error


@contextlib.contextmanager
def _data_as_files(section: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A section with what stands in it as Base64 in files instead, which nobody else may read; they go at the end.

    OpenSSL takes certificates and keys from files only. Raises ValueError, which names the field, for
    what is no Base64.
    """
    with tempfile.TemporaryDirectory(prefix="cgpu-") as folder:
        result = dict(section)
        for name, value in section.items():
            if not name.endswith("-data") or not isinstance(value, str):
                continue
            file = Path(folder) / name
            try:
                file.write_bytes(base64.b64decode("".join(value.split()), validate=True))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            result[name.removesuffix("-data")] = str(file)
            del result[name]
        yield result


def _token_file_auth(file: Path) -> httpx2.Auth:
    """Authentication by a token in a file, which is read for each request: the kubelet rotates it."""
    import httpx2

    class TokenFileAuth(httpx2.Auth):
        def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
            try:
                token = file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ClusterError(f"the token in {file} cannot be read: {error}", "correct the kubeconfig") from error
            request.headers["Authorization"] = f"Bearer {token}"
            yield request

    return TokenFileAuth()


def _plugin_auth(plugin: Mapping[str, Any], cluster: Mapping[str, Any], trust: ssl.SSLContext) -> httpx2.Auth:
    """Authentication by an exec plugin, which is asked again when the API no longer takes its token."""
    import httpx2

    class PluginAuth(httpx2.Auth):
        def __init__(self, token: str) -> None:
            self._token = token

        def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
            if not self._token:
                yield request
                return
            request.headers["Authorization"] = f"Bearer {self._token}"
            response = yield request
            if response.status_code == _UNAUTHORIZED:
                self._token = run_plugin(plugin, cluster).token
                request.headers["Authorization"] = f"Bearer {self._token}"
                yield request

    credential = run_plugin(plugin, cluster)
    if credential.certificate and credential.key:
        _load_certificate(trust, credential)
    return PluginAuth(credential.token)


def _load_certificate(trust: ssl.SSLContext, credential: Credential) -> None:
    """OpenSSL takes certificates from files only: this one nobody else may read, and it is gone at once."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{credential.certificate}\n{credential.key}\n")
        file.flush()
        trust.load_cert_chain(file.name)
