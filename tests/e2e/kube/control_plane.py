"""etcd, the API server, the controller manager and the scheduler, on one host."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.e2e.host import SECONDS, Host
from tests.e2e.kube.daemons import Daemons
from tests.e2e.kube.pki import Pki
from tests.e2e.tools import SEARCHED
from tests.e2e.wanted import Result

SERVICES: Final = "10.96.0.0/16"
KUBECTL: Final = str(Path(sys.executable).with_name("kubectl"))
_API_SERVICE: Final = "10.96.0.1"
_PORT: Final = 6443
_RATE: Final = ("--kube-api-qps=2000", "--kube-api-burst=2000")  # with 20, all pods together start at 10 a second


@dataclass
class ControlPlane:
    """A context manager. Its parts are known by their programs' names."""

    host: Host
    address: str
    programs: Path
    etcd: Path
    api_options: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._daemons = Daemons(self.host, self.folder, SEARCHED)
        self.pki = Pki(self.folder / "pki")
        self.server = f"https://{self.address}:{_PORT}"
        self.admin = self.pki.kubeconfig("admin", self.server, "admin", groups=["system:masters"])
        hosts = ("127.0.0.1", self.address, _API_SERVICE, "kubernetes.default.svc")
        self._serving = self.pki.sign("apiserver", "kube-apiserver", hosts=hosts)
        self._to_kubelets = self.pki.sign("to-kubelets", "apiserver", groups=["system:masters"])

    @property
    def folder(self) -> Path:
        """Certificates, data and logs."""
        return self.host.folder / "control-plane"

    def __enter__(self) -> Self:
        try:
            for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"):
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # An API server whose etcd went first hangs and keeps its port.
        self._daemons.stop("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")

    def start(self, name: str) -> None:
        """Start a program; the API server is waited for."""
        program = self.etcd if name == "etcd" else self.programs / name
        ready = self._ready if name == "kube-apiserver" else None  # the others wait for it, and it for etcd
        self._daemons.start(name, program, self._options(name), ready)

    def ended(self) -> Iterator[str]:
        """Of each program that was not to end and has: how, and its last words."""
        return self._daemons.ended()

    def kill(self, name: str) -> None:
        """End a program without a word."""
        self._daemons.kill(name)

    def pids(self) -> dict[str, int]:
        """The processes by their programs' names, as they are called on this machine."""
        return {name: self.host.child(process) for name, process in self._daemons.processes.items()}

    def kubectl(self, *arguments: str, text_in: str = "", seconds: float = SECONDS) -> str:
        """Run kubectl as the administrator; what it prints. Fails the test with its words when it fails."""
        result = self._kubectl(*arguments, text_in=text_in, seconds=seconds)
        assert result.returncode == 0, f"kubectl {' '.join(arguments)}: {result.stdout}{result.stderr}"
        return result.stdout

    def refused(self, *arguments: str, text_in: str = "") -> str:
        """Run kubectl, which must fail; what it says."""
        result = self._kubectl(*arguments, text_in=text_in)
        assert result.returncode != 0, f"kubectl {' '.join(arguments)} succeeds: {result.stdout}"
        return result.stderr

    def warned(self, *arguments: str, text_in: str = "") -> str:
        """Run kubectl, which must succeed; what it says beside its result."""
        result = self._kubectl(*arguments, text_in=text_in)
        assert result.returncode == 0, result.stderr
        return result.stderr

    def _kubectl(self, *arguments: str, text_in: str = "", seconds: float = SECONDS) -> Result:
        environment = {"PATH": SEARCHED, "HOME": str(self.folder)}
        command = (KUBECTL, f"--kubeconfig={self.admin}", *arguments)
        return self.host.run(*command, text_in=text_in, env=environment, seconds=seconds)

    def _ready(self) -> bool:
        return self._kubectl("get", "--raw=/readyz").returncode == 0

    def _options(self, name: str) -> list[str]:
        pki = self.pki
        match name:
            case "etcd":
                return [f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn"]
            case "kube-apiserver":
                return [
                    "--etcd-servers=http://127.0.0.1:2379",
                    f"--advertise-address={self.address}",
                    f"--secure-port={_PORT}",
                    f"--service-cluster-ip-range={SERVICES}",
                    "--authorization-mode=Node,RBAC",
                    "--enable-admission-plugins=NodeRestriction",
                    "--allow-privileged=true",
                    f"--client-ca-file={pki.authority}",
                    f"--tls-cert-file={self._serving.certificate}",
                    f"--tls-private-key-file={self._serving.key}",
                    f"--kubelet-client-certificate={self._to_kubelets.certificate}",
                    f"--kubelet-client-key={self._to_kubelets.key}",
                    "--kubelet-preferred-address-types=InternalIP",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-key-file={pki.service_accounts}",
                    f"--service-account-signing-key-file={pki.service_accounts}",
                    *self.api_options,
                ]
            case "kube-controller-manager":
                return [
                    *self._leaderless(name),
                    "--use-service-account-credentials",
                    f"--service-account-private-key-file={pki.service_accounts}",
                    f"--root-ca-file={pki.authority}",
                ]
            case _:
                return self._leaderless(name)

    def _leaderless(self, name: str) -> list[str]:
        path = self.folder / "pki" / f"{name}.kubeconfig"
        if not path.exists():
            self.pki.kubeconfig(name, self.server, f"system:{name}")
        return [
            f"--kubeconfig={path}",
            f"--authentication-kubeconfig={path}",
            f"--authorization-kubeconfig={path}",
            "--leader-elect=false",
            *_RATE,
        ]
