"""Which kubeconfig holds, how several are merged, and what is said of malformed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cgpu.adapters.exec_credential import parse_credential
from cgpu.adapters.kubeconfig import kubeconfig_files, read_access
from cgpu.errors import ClusterError

CONFIG = """\
apiVersion: v1
kind: Config
current-context: prod
clusters:
- name: prod
  cluster: {server: https://prod:6443, certificate-authority: pki/ca.crt}
- name: test
  cluster: {server: https://test:6443}
contexts:
- name: prod
  context: {cluster: prod, user: me, namespace: team}
- name: test
  context: {cluster: test}
users:
- name: me
  user:
    client-certificate: /abs/me.crt
    client-key: me.key
    exec: {command: ./bin/login, apiVersion: v1}
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_file_that_is_named_holds_then_the_variable_then_the_home(tmp_path: Path):
    home = write(tmp_path / ".kube" / "config", CONFIG)
    one, two = write(tmp_path / "one", CONFIG), write(tmp_path / "two", CONFIG)
    environment = {"HOME": str(tmp_path)}
    assert kubeconfig_files(None, environment) == (home,)
    several = {**environment, "KUBECONFIG": f"{one}:{tmp_path}/missing::{two}"}
    assert kubeconfig_files(None, several) == (one, two)
    assert kubeconfig_files(two, several) == (two,)
    assert kubeconfig_files(None, {"HOME": str(tmp_path / "nobody")}) == ()


def test_files_that_are_missing_are_named(tmp_path: Path):
    with pytest.raises(ClusterError, match="gone"):
        kubeconfig_files(tmp_path / "gone", {})
    with pytest.raises(ClusterError, match="KUBECONFIG names no file"):
        kubeconfig_files(None, {"KUBECONFIG": str(tmp_path / "gone")})


def test_the_current_context_holds_unless_another_is_named(tmp_path: Path):
    file = write(tmp_path / "config", CONFIG)
    access = read_access((file,), None)
    assert (access.cluster["server"], access.namespace) == ("https://prod:6443", "team")
    assert read_access((file,), "test").user == {}
    assert read_access((file,), "test").namespace == "default"


def test_paths_are_relative_to_the_files_folder(tmp_path: Path):
    access = read_access((write(tmp_path / "a" / "config", CONFIG),), None)
    assert access.cluster["certificate-authority"] == f"{tmp_path}/a/pki/ca.crt"
    assert access.user["client-certificate"] == "/abs/me.crt"
    assert access.user["client-key"] == f"{tmp_path}/a/me.key"
    assert Path(access.user["exec"]["command"]) == tmp_path / "a" / "bin" / "login"


def test_the_first_of_several_files_to_name_a_thing_wins(tmp_path: Path):
    first = {"clusters": [{"name": "prod", "cluster": {"server": "https://mine"}}]}
    files = write(tmp_path / "a", json.dumps(first)), write(tmp_path / "b" / "c", CONFIG)
    access = read_access(files, None)
    assert access.cluster == {"server": "https://mine"}
    assert access.user["client-key"] == f"{tmp_path}/b/me.key"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "not a mapping"),
        ("", "not a mapping"),
        ("a: [", "line 1"),
        ("clusters: {a: b}", "clusters is not a list"),
        ("users: [5]", "an entry of users"),
        ("contexts: [{name: a, context: 5}]", "an entry of contexts"),
        ("\x00", "not a kubeconfig"),
        ("!!python/object:os.system {}", "not a kubeconfig"),
        ("{}", "no current context"),
        ("current-context: a", "has no context 'a'"),
        ("{current-context: a, contexts: [{name: a, context: {cluster: c}}]}", "has no cluster 'c'"),
        ("{current-context: a, contexts: [{name: a, context: {cluster: c}}], clusters: [{name: c}]}", "has no server"),
        (CONFIG.replace("name: me", "name: you"), "has no user 'me'"),
    ],
)
def test_what_is_malformed_is_named_with_its_file(tmp_path: Path, text: str, said: str):
    file = write(tmp_path / "config", text)
    with pytest.raises(ClusterError, match=said) as caught:
        read_access((file,), None)
    assert str(file) in caught.value.message
    assert caught.value.remedy


def test_a_context_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path):
    with pytest.raises(ClusterError, match="no context 'produ'") as caught:
        read_access((write(tmp_path / "config", CONFIG),), "produ")
    assert "prod, test" in caught.value.remedy


def test_a_file_may_be_too_large(tmp_path: Path):
    with pytest.raises(ClusterError, match="larger than 4 MiB"):
        read_access((write(tmp_path / "config", "#" * (4 << 20) + "\n"),), None)


@pytest.mark.parametrize("output", ["", "null", "[]", '{"status": null}', '{"status": {"token": 5}}', "[" * 100_000])
def test_what_a_plugin_printed_is_never_quoted(output: str):
    with pytest.raises(ClusterError) as caught:
        parse_credential(output.encode(), "login")
    assert output == "" or output not in str(caught.value)


def test_a_plugin_may_give_a_token_or_a_certificate():
    def given_by(**status: Any) -> tuple[str, str, str]:
        credential = parse_credential(json.dumps({"status": status}).encode(), "login")
        return credential.token, credential.certificate, credential.key

    assert given_by(token="t") == ("t", "", "")
    assert given_by(clientCertificateData="c", clientKeyData="k") == ("", "c", "k")
    with pytest.raises(ClusterError, match="no credential"):
        given_by(clientCertificateData="c")
