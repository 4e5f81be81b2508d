"""What can go wrong with a connect: one line (what, why, what to do), and an exit code of its own."""

import base64
import datetime
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from stage import INROAD, Stage

from inroad.core import errors

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

HIDE_TUN = 'mount -t tmpfs none /dev/net; exec "$@"'
RECORDING_PLUGIN = """#!{python}
import json, os
with open(os.environ["HOME"] + "/plugin-uids", "a") as file:
    print(os.getuid(), os.geteuid(), os.environ.get("AWS_PROFILE", ""), file=file)
print(json.dumps({{
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {{"token": {token!r}}},
}}))
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a running sandbox, not connected."""
    stage = Stage("t-errors")
    stage.up()
    try:
        yield stage
    finally:
        stage.down()


@pytest.fixture(autouse=True)
def _clean(stage: Stage) -> Iterator[None]:
    """Check that whatever failed left the host as it was."""
    before = stage.dump()
    yield
    stage.inroad("quit", user="root", status=None)
    assert stage.dump() == before
    assert stage.daemon_pids() == []


def config(stage: Stage) -> dict[str, Any]:
    """Return the sandbox's kubeconfig as a dictionary."""
    loaded: dict[str, Any] = yaml.safe_load(stage.kubeconfig())
    return loaded


def other_ca() -> str:
    """Return a CA certificate that signed nothing here, in base64."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another CA")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.PEM)).decode()


def create(stage: Stage, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Create an object through the API server, as the kubeconfig's administrator."""
    user = config(stage)["users"][0]["user"]
    flags = ["-sSk", "-H", f"Authorization: Bearer {user['token']}", "-H", "Content-Type: application/json"]
    done = stage.run("curl", *flags, "-d", "@-", stage.state["api_server"] + path, stdin=json.dumps(body))
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["kind"] != "Status", answer
    return answer


def account_token(stage: Stage, name: str, rules: list[dict[str, Any]]) -> str:
    """Return a token of a new service account with the given rights in namespace `inroad`."""
    core, rbac = "/api/v1/namespaces/inroad", "/apis/rbac.authorization.k8s.io/v1/namespaces/inroad"
    create(stage, f"{core}/serviceaccounts", {"metadata": {"name": name}})
    create(stage, f"{rbac}/roles", {"metadata": {"name": name}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": "inroad"}
    create(
        stage, f"{rbac}/rolebindings", {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
    )
    answer = create(stage, f"{core}/serviceaccounts/{name}/token", {"spec": {"audiences": []}})
    return str(answer["status"]["token"])


Change = Callable[[Stage, dict[str, Any]], None]


def _server(url: str) -> Change:
    def change(stage: Stage, config: dict[str, Any]) -> None:
        config["clusters"][0]["cluster"]["server"] = url

    return change


def _wrong_ca(stage: Stage, config: dict[str, Any]) -> None:
    config["clusters"][0]["cluster"]["certificate-authority-data"] = other_ca()


def _wrong_token(stage: Stage, config: dict[str, Any]) -> None:
    config["users"][0]["user"] = {"token": "not-a-token"}


def _no_rights(stage: Stage, config: dict[str, Any]) -> None:
    config["users"][0]["user"] = {"token": account_token(stage, "nothing", [])}


def _no_port_forward(stage: Stage, config: dict[str, Any]) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["pods", "services", "endpoints"], "verbs": ["get", "list", "watch"]}
    ]
    config["users"][0]["user"] = {"token": account_token(stage, "reader", rules)}


def _missing_plugin(stage: Stage, config: dict[str, Any]) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "absent-plugin",
        "interactiveMode": "Never",
    }
    config["users"][0]["user"] = {"exec": plugin}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (_server("https://192.168.50.20:1"), errors.ApiUnreachable, "192.168.50.20:1"),
        (_server("https://no-such-host.example:6443"), errors.ApiUnreachable, "no-such-host.example"),
        (_wrong_ca, errors.ApiCertificate, "certificate"),
        (_wrong_token, errors.CredentialsRejected, ""),
        (_missing_plugin, errors.CredentialsRejected, "absent-plugin"),
        (_no_rights, errors.Forbidden, ""),
        (_no_port_forward, errors.Forbidden, "port"),
    ],
)
def test_what_a_kubeconfig_leads_to(
    stage: Stage, change: Change, error: type[errors.InroadError], words: str
) -> None:
    changed = config(stage)
    change(stage, changed)
    path = stage.write("/tmp/kubeconfig-changed", yaml.safe_dump(changed))
    fails(stage, error, words, "--kubeconfig", path)


def fails(stage: Stage, error: type[errors.InroadError], words: str, *arguments: str) -> None:
    """Connect, which must fail with that error, as text and as JSON."""
    done = stage.inroad("connect", *arguments, status=error.exit_code)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("inroad: ")
    assert words in line
    assert ". " in line, "the line says what to do"
    assert not [each for each in done.stderr.splitlines() if "Traceback" in each]
    told = stage.ask("connect", *arguments, status=error.exit_code)["error"]
    assert told["code"] == error.code
    assert told["remedy"]


def test_no_such_kubeconfig(stage: Stage) -> None:
    fails(stage, errors.KubeconfigMissing, "/absent/config", "--kubeconfig", "/absent/config")


def test_a_kubeconfig_of_somebody_else(stage: Stage) -> None:
    stage.run(
        "sh", "-c", "umask 077; echo secret > /run/home/root/theirs; chmod 755 /run/home/root", user="root"
    )
    path = "/run/home/root/theirs"
    fails(stage, errors.KubeconfigUnreadable, path, "--kubeconfig", path)


def test_a_file_that_is_no_kubeconfig(stage: Stage) -> None:
    path = stage.write("/tmp/kubeconfig-broken", "clusters: [")
    fails(stage, errors.KubeconfigUnreadable, path, "--kubeconfig", path)


def test_no_such_context(stage: Stage) -> None:
    fails(stage, errors.ContextUnknown, "elsewhere", "--context", "elsewhere")


def test_no_manager(stage: Stage) -> None:
    fails(stage, errors.NoManager, "default", "--manager-namespace", "default")


def test_no_such_namespace(stage: Stage) -> None:
    fails(stage, errors.NamespaceUnknown, "absent", "-n", "absent")


def test_no_sudo(stage: Stage) -> None:
    done = stage.inroad("connect", user="guest", status=errors.NoPrivilege.exit_code)
    assert done.stderr.count("\n") == 1
    by_hand = f"sudo {' '.join(INROAD)} serve daemon --background"
    assert by_hand in done.stderr
    told = stage.ask("connect", user="guest", status=errors.NoPrivilege.exit_code)["error"]
    assert told["code"] == "no-privilege"
    assert by_hand in told["remedy"]


def test_no_tun_device(stage: Stage) -> None:
    argv = ["unshare", "--mount", "sh", "-c", HIDE_TUN, "sh", *INROAD, "connect"]
    done = stage.run(*argv, user="root", status=errors.NoTunDevice.exit_code)
    assert "/dev/net/tun" in done.stderr.splitlines()[-1]


def test_connected_elsewhere(stage: Stage) -> None:
    other = config(stage)
    other["clusters"].append({"name": "two", "cluster": {"server": "https://192.168.50.20:7443"}})
    other["contexts"].append(
        {"name": "two", "context": {"cluster": "two", "user": other["users"][0]["name"]}}
    )
    path = stage.write("/tmp/kubeconfig-two", yaml.safe_dump(other))
    stage.inroad("connect", "-n", "shop")
    try:
        fails(stage, errors.ConnectedElsewhere, "inroad quit", "--kubeconfig", path, "--context", "two")
        assert stage.ask("status")["connected"] is True
    finally:
        stage.inroad("quit")


def test_the_plugin_runs_as_the_user_with_the_users_environment(stage: Stage) -> None:
    changed = config(stage)
    script = RECORDING_PLUGIN.format(python=sys.executable, token=changed["users"][0]["user"]["token"])
    plugin = stage.write("/run/home/dev/plugin", script, mode="700")
    about = {"apiVersion": "client.authentication.k8s.io/v1", "command": plugin, "interactiveMode": "Never"}
    changed["users"][0]["user"] = {"exec": about}
    path = stage.write("/run/home/dev/kubeconfig-plugin", yaml.safe_dump(changed))
    stage.run("rm", "-f", "/run/home/dev/plugin-uids")
    stage.run("env", "AWS_PROFILE=work", *INROAD, "connect", "--kubeconfig", path, "-n", "shop")
    assert stage.curl("http://web/")["namespace"] == "shop"
    stage.inroad("quit")
    lines = stage.run("cat", "/run/home/dev/plugin-uids").stdout.splitlines()
    assert lines
    assert set(lines) == {"2001 2001 work"}
