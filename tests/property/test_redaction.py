"""A planted secret never survives, wherever it is planted; redacting again changes nothing; text does not grow on."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cgpu.doctor.redaction import REDACTED, redact, redact_json

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SECRETS = st.text(_ALPHABET + "+/_.!$%~", min_size=12, max_size=40).filter(
    lambda text: text[0].isalnum() and text[-1].isalnum()
)
NAMES = (
    st.sampled_from(["password", "db_password", "DB-PASSWD", "passphrase", "clientSecret", "aws_secret_access_key"])
    | st.sampled_from(["accessKeyId", "api-key", "apiKey", "token", "X-Auth-Token", "refresh_token", "credentials"])
    | st.sampled_from(["Cookie", "private_key", "client-key-data", "session_id", "auth"])
)
VARIABLES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True)
NOISE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40) | st.sampled_from(
    [
        "2026-03-31T10:00:00Z INFO x ",
        "level=info msg=",
        "  ",
        "\n",
        "- ",
        '{"a": "',
        "'",
        '"',
        "\\",
        "a: b\n",
        "kind: Secret\n",
        "-----BEGIN X-----\n",
    ]
)


def in_kubernetes_secret(form: Callable[[object], str]) -> Callable[[str, str], str]:
    def plant(name: str, secret: str) -> str:
        data = {"harmless": base64.b64encode(secret.encode()).decode(), name: "eA=="}
        return form(
            {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data, "stringData": {"conf": secret}}
        )

    return plant


PLANTED: list[Callable[[str, str], str]] = [
    lambda name, secret: f"{name}={secret}",
    lambda name, secret: f"{name}: {secret}",
    lambda name, secret: f"{name} = {secret}",
    lambda name, secret: f'"{name}": "{secret}"',
    lambda name, secret: f"'{name}': '{secret}'",
    lambda name, secret: json.dumps(json.dumps({name: secret, "other": 1})),
    lambda name, secret: yaml.safe_dump({name: secret, "other": {"deep": [1]}}),
    lambda name, secret: yaml.safe_dump({"a": [{name: [secret, "x"]}, {"b": 1}]}),
    lambda name, secret: yaml.safe_dump({name: f"first\n{secret}\nlast"}, default_style="|"),
    lambda name, secret: json.dumps({"outer": {name: {"inner": secret}}}, indent=2),
    lambda name, secret: f"--{name} {secret}",
    lambda name, secret: f"--{name}={secret}",
    lambda name, secret: json.dumps(["run", f"--{name}", secret]),
    lambda name, secret: yaml.safe_dump({"args": ["run", f"--{name}", secret]}),
    lambda name, secret: f"Authorization: Bearer {secret}",
    lambda name, secret: f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----",
    lambda name, secret: f"-----BEGIN PRIVATE KEY-----\n{secret}",
    in_kubernetes_secret(json.dumps),
    in_kubernetes_secret(lambda value: json.dumps(value, indent=4)),
    in_kubernetes_secret(lambda value: json.dumps({"kind": "List", "items": [value, value]}, sort_keys=True)),
    in_kubernetes_secret(yaml.safe_dump),
    in_kubernetes_secret(lambda value: yaml.safe_dump({"items": [value], "kind": "List"})),
]


@given(NAMES, SECRETS, st.sampled_from(range(len(PLANTED))))
def test_a_planted_secret_never_survives(name: str, secret: str, kind: int) -> None:
    redacted = redact(PLANTED[kind](name, secret))
    assert secret not in redacted
    assert base64.b64encode(secret.encode()).decode() not in redacted
    assert REDACTED in redacted


@given(NAMES, SECRETS, st.sampled_from(range(len(PLANTED))), NOISE, NOISE)
@example("token", "abcdefghijkl", 0, "kind: Secret\n", "'")
def test_a_planted_secret_never_survives_between_other_lines(
    name: str, secret: str, kind: int, before: str, behind: str
) -> None:
    assume(secret not in before + behind)
    redacted = redact(f"{before}\n{PLANTED[kind](name, secret)}\n{behind}")
    assert secret not in redacted
    assert base64.b64encode(secret.encode()).decode() not in redacted


@given(VARIABLES, SECRETS)
def test_the_value_of_a_variable_never_survives(name: str, secret: str) -> None:
    for text in (
        f"{name}={secret}",
        f"x {name}='{secret} more' y",
        json.dumps({"Env": [f"{name}=a {secret} b"]}),
        f"A=1\0{name}={secret} more\0",
        f"docker run -e {name}={secret} i",
        yaml.safe_dump({"env": [{"name": name, "value": f"a {secret}"}]}),
        yaml.safe_dump({"env": [{"name": name, "value": f"a\n{secret}\n"}]}, default_style="|"),
        json.dumps({"env": [{"name": name, "value": secret}]}),
        json.dumps({"env": [{"name": name, "value": secret}]}, indent=1),
    ):
        assert secret not in redact(text), text
    assert secret not in json.dumps(redact_json({"env": [{"name": name, "value": secret}]}))


@given(st.text(_ALPHABET, min_size=8, max_size=20), st.text(_ALPHABET + "-._~!$&*+,;=:%", min_size=12, max_size=30))
def test_credentials_in_a_url_never_survive(user: str, password: str) -> None:
    redacted = redact(f"pull https://{user}:{password}@registry.example:5000/v2/ failed")
    assert password not in redacted
    assert "registry.example:5000/v2/ failed" in redacted


ANY = st.lists(
    NOISE
    | st.sampled_from(
        [
            "password",
            "token=",
            "FOO=",
            "data:",
            '"data": {',
            "kind: Secret",
            "value:",
            "name: x",
            "-----END X-----",
            "://",
            "@",
            "8.8.8.8",
            "::1",
            "<redacted>",
        ]
    ),
    max_size=25,
).map("".join)


@given(ANY)
def test_redacting_again_changes_nothing_and_text_does_not_grow_without_bound(text: str) -> None:
    redacted = redact(text)
    assert redact(redacted) == redacted
    assert len(redacted) <= (len(text) + 1) * (len(REDACTED) + 2)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_json_keeps_its_form(value: object) -> None:
    redacted = redact_json(value)
    json.dumps(redacted)
    assert type(redacted) is type(value)
    assert redact_json(redacted) == redacted
