"""The cluster side without helm: what is applied follows from three choices."""

from inroad.cli import manifest
from inroad.cli.helm import helm_values
from inroad.kube.apply import path_of

NOTHING = {"values": (), "settings": (), "pod_cidr_strategy": None, "image": ""}


def paths(namespace: str) -> list[str]:
    return [path_of(body) for body in manifest.objects(namespace)]


def test_everything_moves_to_the_chosen_namespace() -> None:
    core = "/api/v1/namespaces"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    assert set(paths("net-tools")) == {
        f"{core}/net-tools",
        f"{core}/net-tools/serviceaccounts/traffic-manager",
        f"{core}/net-tools/configmaps/traffic-manager",
        f"{core}/net-tools/services/traffic-manager",
        f"{core}/net-tools/secrets/traffic-manager-tls",
        f"{rbac}/clusterroles/traffic-manager-net-tools",
        f"{rbac}/clusterrolebindings/traffic-manager-net-tools",
        f"{rbac}/namespaces/net-tools/roles/traffic-manager",
        f"{rbac}/namespaces/net-tools/rolebindings/traffic-manager",
        "/apis/apps/v1/namespaces/net-tools/deployments/traffic-manager",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/traffic-manager-net-tools",
    }


def test_the_namespace_comes_first_and_bindings_name_what_exists() -> None:
    bodies = manifest.objects("other")
    assert bodies[0]["kind"] == "Namespace"
    roles = {body["metadata"]["name"] for body in bodies if body["kind"] in ("Role", "ClusterRole")}
    bindings = [body for body in bodies if body["kind"].endswith("Binding")]
    assert {body["roleRef"]["name"] for body in bindings} == roles
    assert {subject["namespace"] for body in bindings for subject in body["subjects"]} == {"other"}


def test_the_webhook_is_asked_where_the_manager_is_and_may_be_patched_by_it() -> None:
    bodies = manifest.objects("other")
    [webhook] = [body for body in bodies if body["kind"] == "MutatingWebhookConfiguration"]
    assert webhook["webhooks"][0]["clientConfig"]["service"]["namespace"] == "other"
    [role] = [body for body in bodies if body["kind"] == "ClusterRole"]
    named = {name for rule in role["rules"] for name in rule.get("resourceNames", ())}
    assert named == {webhook["metadata"]["name"]} == {"traffic-manager-other"}


def test_image_and_strategy() -> None:
    [deployment] = [
        b
        for b in manifest.objects("inroad", "reg:5000/a/inroad:7", "coverPodIPs")
        if b["kind"] == "Deployment"
    ]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert container["image"] == "reg:5000/a/inroad:7"
    assert variables["POD_CIDR_STRATEGY"] == "coverPodIPs"


def test_helm_gets_the_same_choices_after_the_users_own() -> None:
    options = NOTHING | {"values": ("a.yaml",), "settings": ("logLevel=debug",), "pod_cidr_strategy": "auto"}
    assert helm_values(options) == [
        "-f",
        "a.yaml",
        "--set",
        "logLevel=debug",
        "--set",
        "podCIDRStrategy=auto",
    ]


def test_an_image_is_split_as_the_chart_has_it() -> None:
    def image(text: str) -> list[str]:
        return [value.partition("=")[2] for value in helm_values(NOTHING | {"image": text})[1::2]]

    assert image("inroad:1") == ["", "inroad", "1"]
    assert image("reg:5000/a/inroad:7") == ["reg:5000/a", "inroad", "7"]
    assert image("reg:5000/inroad") == ["reg:5000", "inroad", ""]
