"""Kubeconfigs as people have them -> credentials, or an error that says what is wrong."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from inroad.core.errors import (
    ContextUnknown,
    CredentialsRejected,
    InroadError,
    KubeconfigMissing,
    KubeconfigUnreadable,
)
from inroad.kube.credentials import Credentials, PluginOutput, load
from inroad.kube.exec_plugin import Invocation
from inroad.kube.proxies import proxy_for

V1 = "client.authentication.k8s.io/v1"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(
    user: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "current-context": "dev",
        "contexts": [{"name": "dev", "context": {"cluster": "c1", "user": "u1", **(context or {})}}],
        "clusters": [{"name": "c1", "cluster": {"server": "https://api.example:6443/", **(cluster or {})}}],
        "users": [{"name": "u1", "user": {"token": "t0k"} if user is None else user}],
    }


class Plugin:
    """A credential plugin that answers as told and remembers how it was run."""

    def __init__(
        self, status: dict[str, Any] | None = None, *, version: str = V1, code: int = 0, stderr: str = ""
    ) -> None:
        self.answer = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})
        self.code, self.stderr = code, stderr
        self.invoked: Invocation | None = None

    def __call__(self, invoked: Invocation) -> PluginOutput:
        self.invoked = invoked
        return PluginOutput(self.code, self.answer if not self.code else "", self.stderr)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    return tmp_path


def written(home: Path, content: Any, name: str = ".kube/config") -> Path:
    path = home / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def loaded(
    home: Path, content: Any, *, context: str = "", plugin: Plugin | None = None, **environ: str
) -> Credentials:
    written(home, content)
    return load("", context, environ, plugin or Plugin())


def test_a_token_and_the_default_file(home: Path) -> None:
    found = loaded(
        home, config(cluster={"certificate-authority-data": b64("CA")}, context={"namespace": "shop"})
    )
    assert found == Credentials(
        server="https://api.example:6443",
        ca_pem="CA",
        token="t0k",
        context="dev",
        cluster="c1",
        namespace="shop",
    )


def test_files_are_relative_to_their_kubeconfig_and_data_wins(home: Path) -> None:
    for name in ("ca.crt", "me.crt", "me.key", "token"):
        written(home, f"{name} content", f".kube/{name}")
    user = {"client-certificate": "me.crt", "client-key": "./me.key", "tokenFile": "token", "token": "older"}
    found = loaded(home, config(user, {"certificate-authority": "ca.crt"}))
    assert (found.client_cert_pem, found.client_key_pem) == ("me.crt content", "me.key content")
    assert (found.ca_pem, found.token) == ("ca.crt content", "token content")
    both = config(user, {"certificate-authority": "ca.crt", "certificate-authority-data": b64("data")})
    assert loaded(home, both).ca_pem == "data"


def test_the_first_file_of_kubeconfig_wins_and_missing_ones_are_skipped(home: Path) -> None:
    one = written(
        home,
        {"current-context": "two", "contexts": None, "users": [{"name": "u1", "user": {"token": "a"}}]},
        "1",
    )
    more = config({"token": "b"})
    more["contexts"].append({"name": "two", "context": {"cluster": "c1", "user": "u1", "namespace": "n2"}})
    two = written(home, more, "2")
    found = load("", "", {"KUBECONFIG": f"{home}/missing:{one}:{two}"}, Plugin())
    assert (found.context, found.token, found.namespace) == ("two", "a", "n2")
    assert load("", "dev", {"KUBECONFIG": f"{one}:{two}"}, Plugin()).context == "dev"
    assert load(str(two), "", {"KUBECONFIG": str(one)}, Plugin()).token == "b"


def test_tls_and_proxy_settings(home: Path) -> None:
    cluster = {"insecure-skip-tls-verify": True, "tls-server-name": "k8s", "proxy-url": "http://p:3128"}
    found = loaded(home, config({"username": "me", "password": "pw"}, cluster))
    assert (found.insecure, found.tls_server_name, found.proxy_url) == (True, "k8s", "http://p:3128")
    assert (found.username, found.password, found.token) == ("me", "pw", "")


@pytest.mark.parametrize(
    ("content", "context", "kind", "words"),
    [
        (config(), "prod", ContextUnknown, "has no context prod; it has dev"),
        ({"contexts": []}, "", ContextUnknown, "no current context"),
        ("", "", ContextUnknown, "no current context"),
        ("a: [b", "", KubeconfigUnreadable, "line 2: did not find"),
        ("just text", "", KubeconfigUnreadable, "is not a kubeconfig"),
        ("contexts: 7", "", KubeconfigUnreadable, "is not a kubeconfig"),
        ("contexts: [x]", "", KubeconfigUnreadable, "an entry of contexts is malformed"),
        (config(cluster={"server": ""}), "", KubeconfigUnreadable, "has no server"),
        (config(cluster={"server": "ftp://x"}), "", KubeconfigUnreadable, "no http(s) URL"),
        (
            config(cluster={"certificate-authority": "gone.crt"}),
            "",
            KubeconfigUnreadable,
            "gone.crt can't be read",
        ),
        (config(cluster={"certificate-authority-data": "!"}), "", KubeconfigUnreadable, "is not base64"),
        (config(context={"user": "nobody"}), "", KubeconfigUnreadable, "user 'nobody', who is not in"),
        (config({"exec": {"args": []}}), "", KubeconfigUnreadable, "names no command"),
        (config({"exec": {"command": "x", "apiVersion": "v0"}}), "", KubeconfigUnreadable, "apiVersion 'v0'"),
    ],
)
def test_what_is_wrong_is_said(
    home: Path, content: Any, context: str, kind: type[InroadError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        loaded(home, content, context=context)
    assert words in caught.value.message
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(home: Path) -> None:
    with pytest.raises(KubeconfigMissing, match=r"\.kube/config"):
        load("", "", {}, Plugin())
    with pytest.raises(KubeconfigMissing, match="elsewhere"):
        load("/elsewhere", "", {}, Plugin())


def exec_user(**more: Any) -> dict[str, Any]:
    return {"exec": {"apiVersion": V1, "command": "gke-gcloud-auth-plugin", **more}}


def test_a_plugin_gets_its_arguments_and_the_protocol(home: Path) -> None:
    plugin = Plugin({"token": "fresh", "expirationTimestamp": "2026-03-01T12:00:00Z"})
    user = exec_user(args=["--x", 1], env=[{"name": "AWS_PROFILE", "value": "dev"}])
    found = loaded(home, config(user), plugin=plugin, KEPT="yes")
    assert (found.token, found.expiry) == ("fresh", 1772366400)
    assert plugin.invoked is not None
    assert plugin.invoked.argv == ("gke-gcloud-auth-plugin", "--x", "1")
    assert (plugin.invoked.environ["AWS_PROFILE"], plugin.invoked.environ["KEPT"]) == ("dev", "yes")
    info = json.loads(plugin.invoked.environ["KUBERNETES_EXEC_INFO"])
    assert info == {"apiVersion": V1, "kind": "ExecCredential", "spec": {"interactive": False}}


def test_a_plugin_may_give_a_certificate_and_be_told_of_the_cluster(home: Path) -> None:
    plugin = Plugin({"clientCertificateData": "CERT", "clientKeyData": "KEY"})
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    cluster = {"certificate-authority-data": b64("CA"), "extensions": [extension], "tls-server-name": "k"}
    user = exec_user(command="./bin/plugin", provideClusterInfo=True)
    found = loaded(home, config(user, cluster), plugin=plugin)
    assert (found.client_cert_pem, found.client_key_pem, found.token) == ("CERT", "KEY", "")
    assert plugin.invoked is not None
    assert plugin.invoked.argv == (str(home / ".kube/bin/plugin"),)
    assert json.loads(plugin.invoked.environ["KUBERNETES_EXEC_INFO"])["spec"]["cluster"] == {
        "server": "https://api.example:6443/",
        "certificate-authority-data": b64("CA"),
        "tls-server-name": "k",
        "config": {"audience": "x"},
    }


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (
            Plugin(code=1, stderr="Traceback\n\nExpired SSO session: run aws sso login\n\n"),
            "run aws sso login",
        ),
        (Plugin(code=-9), "status -9: it said nothing"),
        (Plugin({"token": ""}), "neither token nor certificate"),
        (Plugin(None), "it has no status"),
        (Plugin({"token": "x"}, version="client.authentication.k8s.io/v1beta1"), "answered with"),
        (Plugin({"token": "x", "expirationTimestamp": "tomorrow"}), "did not answer with an ExecCredential"),
    ],
)
def test_a_plugin_that_fails(home: Path, plugin: Plugin, words: str) -> None:
    with pytest.raises(CredentialsRejected, match=words):
        loaded(home, config(exec_user()), plugin=plugin)


def test_a_plugin_that_is_not_installed_says_how_to_get_it(home: Path) -> None:
    def missing(invoked: Invocation) -> PluginOutput:
        raise FileNotFoundError(2, "No such file or directory")

    written(home, config(exec_user(installHint="Install it:\n  gcloud components install it")))
    with pytest.raises(CredentialsRejected) as caught:
        load("", "", {}, missing)
    assert caught.value.remedy == "Install it: gcloud components install it"


def jwt(**claims: Any) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part(claims)}.sig"


def test_an_oidc_provider_is_left_to_the_library(home: Path) -> None:
    token = jwt(exp=4102444800)
    user = {
        "auth-provider": {
            "name": "oidc",
            "config": {"id-token": token, "client-id": "x", "idp-issuer-url": "y"},
        }
    }
    found = loaded(home, config(user))
    assert (found.token, found.expiry) == (token, 4102444800)
    user["auth-provider"]["config"]["id-token"] = jwt(exp=1)
    with pytest.raises(CredentialsRejected, match="auth-provider oidc gave no token"):
        loaded(home, config(user))


def test_without_the_library_an_auth_provider_is_refused_with_the_way_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the container image, which leaves the package out."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "kubernetes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    user = {"auth-provider": {"name": "gcp", "config": {}}}
    with pytest.raises(CredentialsRejected, match="auth-provider gcp, for which") as caught:
        loaded(home, config(user))
    assert "credential plugin (exec)" in caught.value.remedy


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://api.example:6443", {}, ""),
        ("https://api.example:6443", {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ("https://api.example:6443", {"https_proxy": "p:3128"}, "http://p:3128"),
        ("https://api.example:6443", {"HTTP_PROXY": "http://p"}, ""),
        ("http://api.example", {"HTTP_PROXY": "http://p"}, "http://p"),
        ("https://127.0.0.1:6443", {"HTTPS_PROXY": "http://p"}, ""),
        ("https://[::1]:6443", {"HTTPS_PROXY": "http://p"}, ""),
        ("https://localhost", {"HTTPS_PROXY": "http://p"}, ""),
        ("https://10.0.0.7:6443", {"HTTPS_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, ""),
        ("https://11.0.0.7:6443", {"HTTPS_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, "http://p"),
        ("https://api.example:6443", {"HTTPS_PROXY": "http://p", "NO_PROXY": "x, example"}, ""),
        ("https://api.example:6443", {"HTTPS_PROXY": "http://p", "NO_PROXY": ".example"}, ""),
        ("https://example:6443", {"HTTPS_PROXY": "http://p", "NO_PROXY": ".example"}, "http://p"),
        ("https://api.example:6443", {"HTTPS_PROXY": "http://p", "NO_PROXY": "api.example:443"}, "http://p"),
        ("https://api.example:6443", {"HTTPS_PROXY": "http://p", "no_proxy": "api.example:6443"}, ""),
        ("https://api.example:6443", {"HTTPS_PROXY": "http://p", "NO_PROXY": "ample"}, "http://p"),
        ("https://api.example:6443", {"HTTPS_PROXY": "http://p", "NO_PROXY": "*"}, ""),
    ],
)
def test_proxies_as_kubectl_reads_them(url: str, environ: dict[str, str], proxy: str) -> None:
    assert proxy_for(url, environ) == proxy
