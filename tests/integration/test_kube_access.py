"""Ways to a cluster: tokens, certificates, plugins, service accounts; and what is said when there is none."""

from __future__ import annotations

import base64
import ipaddress
import shutil
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cgpu import __version__
from cgpu.adapters import kube, kube_connection, kube_objects
from cgpu.adapters.kubeconfig import Access
from cgpu.errors import ClusterError
from tests.integration.cluster_objects import gpu_node
from tests.integration.fake_api import FakeApi


@pytest.fixture(autouse=True)
def _no_other_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@dataclass(frozen=True)
class Pki:
    """Certificates and keys, as PEM files."""

    folder: Path

    def make(self, name: str, subject: str, issuer: str | None = None, address: str = "127.0.0.1") -> None:
        """A certificate for that address; without an issuer an authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        called = x509.Name.from_rfc4514_string(subject)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(called)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
        )
        if issuer is None:
            made = builder.issuer_name(called).add_extension(
                x509.BasicConstraints(ca=True, path_length=None), critical=True
            )
            signed_by = key
        else:
            authority = x509.load_pem_x509_certificate(Path(self.path(f"{issuer}.crt")).read_bytes())
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            made = builder.issuer_name(authority.subject).add_extension(names, critical=False)
            loaded = serialization.load_pem_private_key(Path(self.path(f"{issuer}.key")).read_bytes(), None)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)
            signed_by = loaded
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        certificate = made.sign(signed_by, hashes.SHA256())
        Path(self.path(f"{name}.crt")).write_bytes(certificate.public_bytes(pem))
        Path(self.path(f"{name}.key")).write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def data(self, name: str) -> str:
        return base64.b64encode((self.folder / name).read_bytes()).decode()

    def server(self, *, name: str = "server", clients: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(f"{name}.crt"), self.path(f"{name}.key"))
        if clients:
            context.load_verify_locations(self.path("ca.crt"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    pki.make("ca", "CN=the-ca")
    pki.make("other", "CN=another-ca")
    pki.make("server", "CN=kube-apiserver", "ca")
    pki.make("elsewhere", "CN=kube-apiserver", "ca", "192.0.2.7")
    pki.make("client", "CN=doctor,O=system:masters", "ca")
    pki.make("stranger", "CN=doctor", "other")
    return pki


def nodes_with(api: FakeApi, folder: Path, user: Mapping[str, Any], cluster: Mapping[str, Any]) -> list[str]:
    """The names of the nodes that a kubeconfig with these gets to see."""
    file = folder / "kubeconfig"
    file.write_text(api.kubeconfig(user, cluster))
    with kube.connect(file, None) as connected:
        return [node["metadata"]["name"] for page in connected.nodes(None) for node in page.items]


def plugin(folder: Path, body: str, **more: Any) -> dict[str, Any]:
    """A user whose exec plugin is this Python program."""
    program = folder / "plugin.py"
    program.write_text(body)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(program)],
            "interactiveMode": "Never",
            **more,
        }
    }


def test_a_token_and_the_authority_as_data(pki: Pki, tmp_path: Path):
    with FakeApi(nodes=[gpu_node("a")], token="secret").served(pki.server()) as api:
        cluster = {"certificate-authority-data": pki.data("ca.crt")}
        assert nodes_with(api, tmp_path, {"token": "secret"}, cluster) == ["a"]


def test_a_client_certificate_as_data_and_as_files_beside_the_kubeconfig(pki: Pki, tmp_path: Path):
    with FakeApi(nodes=[gpu_node("a")]).served(pki.server(clients=True)) as api:
        data = {"client-certificate-data": pki.data("client.crt"), "client-key-data": pki.data("client.key")}
        assert nodes_with(api, tmp_path, data, {"certificate-authority-data": pki.data("ca.crt")}) == ["a"]
        for name in ("ca.crt", "client.crt", "client.key"):
            shutil.copy(pki.path(name), tmp_path)
        files = {"client-certificate": "client.crt", "client-key": "client.key"}
        assert nodes_with(api, tmp_path, files, {"certificate-authority": "ca.crt"}) == ["a"]


def test_a_token_file_is_read_again_when_it_was_rotated(pki: Pki, tmp_path: Path):
    (tmp_path / "token").write_text("old\n")
    with FakeApi(nodes=[gpu_node("a")], token="old").served(pki.server()) as api:
        file = tmp_path / "kubeconfig"
        file.write_text(api.kubeconfig({"tokenFile": "token"}, {"certificate-authority": pki.path("ca.crt")}))
        with kube.connect(file, None) as cluster:
            assert len(list(next(cluster.nodes(None)).items)) == 1
            api.token = "new"
            (tmp_path / "token").write_text("new\n")
            assert len(list(next(cluster.nodes(None)).items)) == 1
            (tmp_path / "token").unlink()
            with pytest.raises(ClusterError, match=r"the token in .*token cannot be read"):
                next(cluster.nodes(None))


def test_an_exec_plugin_gives_a_token_and_is_asked_again_when_it_has_expired(pki: Pki, tmp_path: Path):
    body = """
import json, os, pathlib
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert info["apiVersion"] == "client.authentication.k8s.io/v1" and os.environ["REGION"] == "cn-hangzhou", info
calls = pathlib.Path(__file__).with_name("calls")
calls.write_text(str(int(calls.read_text()) + 1 if calls.exists() else 1))
print(json.dumps({"apiVersion": info["apiVersion"], "status": {"token": "t" + calls.read_text()}}))
"""
    user = plugin(tmp_path, body, env=[{"name": "REGION", "value": "cn-hangzhou"}])
    with FakeApi(nodes=[gpu_node("a")], token="t1").served(pki.server()) as api:
        cluster = {"certificate-authority": pki.path("ca.crt")}
        assert nodes_with(api, tmp_path, user, cluster) == ["a"]
        api.token = "t3"
        assert nodes_with(api, tmp_path, user, cluster) == ["a"]


def test_an_exec_plugin_gives_a_certificate(pki: Pki, tmp_path: Path):
    status = {
        "clientCertificateData": Path(pki.path("client.crt")).read_text(),
        "clientKeyData": Path(pki.path("client.key")).read_text(),
    }
    user = plugin(tmp_path, f"import json\nprint(json.dumps({{'status': {status!r}}}))")
    with FakeApi(nodes=[gpu_node("a")]).served(pki.server(clients=True)) as api:
        assert nodes_with(api, tmp_path, user, {"certificate-authority": pki.path("ca.crt")}) == ["a"]


def test_an_insecure_cluster_is_not_verified(pki: Pki, tmp_path: Path):
    with FakeApi(nodes=[gpu_node("a")]).served(pki.server(name="stranger")) as api:
        assert nodes_with(api, tmp_path, {}, {"insecure-skip-tls-verify": True}) == ["a"]


def test_the_servers_name_may_be_another_than_its_address(pki: Pki, tmp_path: Path):
    with FakeApi(nodes=[gpu_node("a")]).served(pki.server(name="elsewhere")) as api:
        cluster = {"certificate-authority": pki.path("ca.crt")}
        assert nodes_with(api, tmp_path, {}, {**cluster, "tls-server-name": "192.0.2.7"}) == ["a"]
        with pytest.raises(ClusterError, match="not trusted"):
            nodes_with(api, tmp_path, {}, cluster)


def test_a_server_below_a_path(tmp_path: Path):
    # The fake knows no such path, and its answer tells what it was asked for.
    with FakeApi().served() as api, pytest.raises(ClusterError, match="there is no /k8s/clusters/c-1/api/v1/nodes"):
        nodes_with(api, tmp_path, {}, {"server": f"{api.url}/k8s/clusters/c-1"})


def test_a_pod_without_a_kubeconfig_uses_its_service_account(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "token").write_text("pod-token")
    (tmp_path / "namespace").write_text("cgpu-doctor")
    shutil.copy(pki.path("ca.crt"), tmp_path)
    with FakeApi(nodes=[gpu_node("a")], token="pod-token").served(pki.server()) as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        access = kube_connection.choose_access(None, None, tmp_path)
        with kube.Cluster(kube_connection.open_client(access, "cgpu-doctor"), access.namespace, {}) as cluster:
            assert cluster.namespace == "cgpu-doctor"
            assert len(list(next(cluster.nodes(None)).items)) == 1
        with pytest.raises(ClusterError, match="--context"):
            kube_connection.choose_access(None, "x", tmp_path)


def test_the_server_is_told_which_program_asks():
    with FakeApi().served() as api:
        programs = ["cgpu-agent", "cgpu-controller"]
        for program in programs:
            access = Access({"server": api.url}, {}, "default", "here")
            with kube_objects.ObjectClient(kube_connection.open_client(access, program)) as client:
                client.get(kube_objects.NODES, "", "a")
        assert [one.program for one in api.asked] == [
            f"{name}/{__version__}" for name in ("cgpu-agent", "cgpu-controller")
        ]


# --- what is said when it does not work


def test_no_kubeconfig():
    with pytest.raises(ClusterError, match="no kubeconfig") as caught:
        kube.connect(None, None)
    assert "--kubeconfig" in caught.value.remedy


def test_a_server_that_nobody_listens_at(tmp_path: Path):
    with FakeApi().served() as api:
        pass
    with pytest.raises(ClusterError, match=r"does not answer.*refused"):
        nodes_with(api, tmp_path, {}, {})


def test_a_token_that_has_expired(tmp_path: Path):
    with FakeApi(token="new").served() as api, pytest.raises(ClusterError, match="401") as caught:
        nodes_with(api, tmp_path, {"token": "old"}, {})
    assert "expired" in caught.value.remedy


@pytest.mark.parametrize(
    ("server", "clients", "user", "said"),
    [
        ("stranger", False, {}, "not trusted"),
        ("server", True, {}, "TLS"),
    ],
    ids=["the server's authority is another", "a client certificate is required"],
)
def test_certificates_that_do_not_fit(
    pki: Pki, tmp_path: Path, server: str, clients: bool, user: Mapping[str, Any], said: str
):
    with FakeApi().served(pki.server(name=server, clients=clients)) as api, pytest.raises(ClusterError, match=said):
        nodes_with(api, tmp_path, user, {"certificate-authority": pki.path("ca.crt")})


@pytest.mark.parametrize(
    ("user", "cluster"),
    [
        ({}, {"certificate-authority-data": "!!!"}),
        ({}, {"certificate-authority-data": base64.b64encode(b"no certificate").decode()}),
        ({}, {"certificate-authority": "missing.crt"}),
        ({"client-certificate": "missing.crt", "client-key": "missing.key"}, {}),
        ({"client-certificate-data": 5}, {}),
        ({"auth-provider": {"name": "oidc"}}, {}),
        ({}, {"server": "https://[::1"}),
        ({}, {"server": "https://h:port"}),
        ({}, {"proxy-url": "gopher://x"}),
    ],
)
def test_credentials_that_cannot_be_used(tmp_path: Path, user: Mapping[str, Any], cluster: Mapping[str, Any]):
    with FakeApi().served() as api, pytest.raises(ClusterError) as caught:
        nodes_with(api, tmp_path, user, cluster)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("body", "more", "said"),
    [
        ("raise SystemExit('please log in')", {}, "please log in"),
        ("print('token: abc')", {}, "printed no ExecCredential"),
        ("print('{\"status\": {}}')", {}, "gave no credential"),
        ("", {"command": "no-such-program", "installHint": "get it from the shop"}, "no-such-program"),
        ("", {"apiVersion": "client.authentication.k8s.io/v9"}, "v9"),
    ],
)
def test_a_plugin_that_gives_nothing(tmp_path: Path, body: str, more: dict[str, Any], said: str):
    with FakeApi().served() as api, pytest.raises(ClusterError, match=said) as caught:
        nodes_with(api, tmp_path, plugin(tmp_path, body, **more), {})
    assert "abc" not in str(caught.value)
    if "installHint" in more:
        assert caught.value.remedy == "get it from the shop"


def test_without_lightkube_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "kubeconfig").write_text(FakeApi().kubeconfig())
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ClusterError) as caught:
        kube.connect(tmp_path / "kubeconfig", None)
    assert caught.value.remedy == "pip install 'cgpu[kubernetes]'"
    assert caught.value.exit_code == 3
