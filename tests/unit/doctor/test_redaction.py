"""Secrets as real files have them are taken out, and what a helper needs is kept."""

from __future__ import annotations

import base64
import json

import pytest
import yaml

from cgpu.doctor.redaction import REDACTED, redact, redact_json

S = "hunter2-Zq9xYw"
B64 = base64.b64encode(S.encode()).decode()
_SECRET = {"apiVersion": "v1", "data": {"harmless": B64}, "kind": "Secret", "metadata": {"name": "a"}}
_SECRET_TEXT = {**_SECRET, "stringData": {"conf": f"a: {S}\nb: }}"}}


@pytest.mark.parametrize(
    "text",
    [
        f"password={S}",
        f"--password {S} --other",
        f"--registry-token={S}",
        f'["--password", "{S}"]',
        f"args:\n- --password\n- {S}\n",
        f"mysql --db-password '{S} and more' -h db",
        f'"password": "{S}", "user": "u"',
        f'{{\\"password\\":\\"{S}\\"}}',
        f"{{'api_key': '{S}'}}",
        f"  dbPassword: {S} with spaces\n",
        f"password: |\n  line\n  {S}\nnext: 1\n",
        f"token:\n  value: {S}\n",
        f"secrets:\n- {S}\n- x\n",
        f"secrets:\n\n\n  - {S}\n",
        f'"credentials": {{\n  "a": "{S}"\n}}\n',
        f"password = {S} # c",
        f'password: "{S} not closed',
        f"PASSWORD='{S}",
        f"Authorization: Bearer {S}",
        f"> Authorization: Basic {B64}",
        f"Cookie: a=b; session={S}",
        f'"auths": {{"r": {{"auth": "{B64}"}}}}',
        f"curl -u admin:{S} https://x",
        f"https://user:{S}@registry.example/v2/",
        f"redis://:{S}@10.0.0.1:6379",
        f"client-key-data: {B64}",
        f"FOO={S}",
        f"docker run -e FOO={S} image",
        f"docker run --env foo={S} image",
        f'"Env": ["PATH=/bin", "FOO=a {S} b"]',
        f"PATH=/bin\0FOO=a {S} b\0X=1\0",
        f"env:\n- name: FOO\n  value: {S}\n",
        f"env:\n  - name: FOO\n    value: |-\n      a\n      {S}\n  - name: B\n",
        f'{{"name": "FOO", "value": "{S}"}}',
        f'{{\n "name": "FOO",\n "value": "{S}"\n}}',
        f"<password>{S}</password>",
        f"-----BEGIN RSA PRIVATE KEY-----\n{B64}\n-----END RSA PRIVATE KEY-----",
        f"key: |\n  -----BEGIN EC PRIVATE KEY-----\n  {B64}\n",
        f"{B64 * 4}\n{B64}\n-----END CERTIFICATE-----\n",
        f'"x": "-----BEGIN CERTIFICATE-----\\n{B64}\\n-----END CERTIFICATE-----\\n"',
        f'{B64}\\n-----END CERTIFICATE-----\\n"',
        f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0{B64[:8]}.{B64.rstrip('=')}",
        json.dumps(_SECRET),
        json.dumps(_SECRET, indent=1),
        json.dumps(_SECRET, separators=(",", ":")),
        json.dumps(json.dumps(_SECRET)),
        json.dumps(_SECRET_TEXT),
        json.dumps({"kind": "List", "items": [_SECRET, _SECRET_TEXT]}, indent=2),
        yaml.safe_dump(_SECRET),
        yaml.safe_dump(_SECRET, default_flow_style=True, width=1000),
        yaml.safe_dump(_SECRET_TEXT),
        yaml.safe_dump({"items": [_SECRET, _SECRET_TEXT], "kind": "List"}),
        yaml.safe_dump_all([{"kind": "Pod"}, _SECRET]),
        "LTAI5t" + "x" * 18 + S[:0] + f" token: {S}",
    ],
)
def test_a_secret_is_taken_out(text: str):
    redacted = redact(text)
    assert S not in redacted
    assert B64 not in redacted
    assert REDACTED in redacted
    assert redact(redacted) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "LTAI5tFyLrtEpHpRnVNzvB2Q",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijklmnopqrstuv",
        "kubeadm join --token abcdef.0123456789abcdef",
        "203.0.113.7 is documentation, 8.8.8.8 is not",
        "from [2001:4860:4860::8888]:443",
    ],
)
def test_keys_and_public_addresses_are_known_by_their_form(text: str):
    assert REDACTED in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023",
        "10.0.3.21 192.168.2.167:6443 172.16.0.1/12 127.0.0.1 100.100.100.200 fe80::1 fd00::7 ::1",
        "GPU UUID: \t GPU-2b0f6d51-1f7c-4d0e-8b52-1b8d9c6e7a10",
        "Bus Location: \t 0000:00:07.0",
        "Version: 5:28.1.1-1~ubuntu.24.04~noble",
        "crun 1.2.3.4-5 and v1.2.3.4",
        "Error: failed to create containerd task: OCI runtime create failed: Auto-detected mode as 'legacy': unknown",
        "modprobe: ERROR: could not insert 'km': Operation not permitted",
        "Failed to initialize NVML: GPU access blocked by operating system",
        "x509: certificate signed by unknown authority",
        "2026-03-31T10:11:12Z INFO agent of 2 GPUs on /run/cgpu/agent.sock",
        "cpuManagerPolicy: static\nauthentication:\n  webhook:\n    enabled: true\n",
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755",
        '{"policyName":"none","defaultCpuSet":"","checksum":1353318690}',
        "image: registry-vpc.cn-hangzhou.aliyuncs.com/acs/x:v1@sha256:0123456789abcdef",
        "",
    ],
)
def test_what_a_helper_needs_is_kept(text: str):
    assert redact(text) == text


def test_assignments_of_a_file_that_consists_of_them_are_kept_when_asked():
    release = 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04 LTS"\n'
    assert redact(release, environment=False) == release
    assert "Ubuntu" not in redact(release)


def test_the_form_around_a_secret_stays():
    assert redact("--token=abc),") == f"--token={REDACTED}),"
    assert redact('{"password": "a", "user": "b"}') == f'{{"password": "{REDACTED}", "user": "b"}}'
    assert redact("a: 1\npassword: x\nb: 2") == f"a: 1\npassword: {REDACTED}\nb: 2"
    assert redact("https://u:p@h/x") == f"https://{REDACTED}@h/x"
    assert redact("A=1 B=2") == f"A={REDACTED} B={REDACTED}"


def test_a_json_value_is_redacted_by_its_keys_too():
    value = {
        "checks": [{"name": "driver", "verdict": "supported", "value": "535.129.03"}],
        "password": {"a": S},
        "env": [{"name": "FOO", "value": S}],
        "secret": None,
        "objects": [_SECRET],
        "text": f"token={S}",
        "count": 7,
    }
    redacted = json.dumps(redact_json(value))
    assert S not in redacted
    assert B64 not in redacted
    assert redact_json(value)["checks"] == value["checks"]
    assert redact_json(value)["count"] == 7
    assert redact_json(redact_json(value)) == redact_json(value)
