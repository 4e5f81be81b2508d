"""The sandbox's controllers and kubelets, as users of a cluster see them: by kubectl and from the pods."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stage import INROAD, Stage

KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"
NAMESPACE = "try"
WEB = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: site}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: site}}}}
  template:
    metadata: {{labels: {{app: site}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        command: ["{sys.executable}", -m, inroad.sandbox.workloads.web, "8080"]
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: POD_NAMESPACE, value: "one"}}
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: site}}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {{app: site}}
  ports: [{{name: http, port: 80, targetPort: 8080, nodePort: 30123}}]
"""


class Cluster:
    """kubectl on the sandbox's workstation, in a namespace of the test's own."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def kubectl(self, *argv: str, stdin: str = "", status: int | None = 0) -> str:
        """Run kubectl; return its stdout."""
        line = [KUBECTL, "--namespace", NAMESPACE, *argv]
        return self.stage.run(*line, user="root", stdin=stdin, status=status).stdout

    def apply(self, text: str, *options: str) -> str:
        """Run `inroad sandbox apply`."""
        argv = [*INROAD, "sandbox", "apply", "--name", self.stage.name, "-n", NAMESPACE, *options, "-f", "-"]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done
        return done.stdout

    def json(self, *argv: str) -> dict:
        """Run `kubectl get -o json`."""
        return json.loads(self.kubectl("get", "-o", "json", *argv))

    def pods(self, selector: str = "app=site") -> list[str]:
        """Return the names of pods that stay."""
        items = self.json("pods", "-l", selector)["items"]
        return sorted(one["metadata"]["name"] for one in items if "deletionTimestamp" not in one["metadata"])

    def place(self, pod: str) -> str:
        """Return where to run a command inside a pod."""
        return f"pod/{NAMESPACE}/{pod}"


def until(check: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `check` is true; its last failure is the test's."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"still false after {seconds} s"
        time.sleep(0.1)


@pytest.fixture
def cluster(sandbox: Stage) -> Iterator[Cluster]:
    """Yield a namespace; deleting it must take everything in it along."""
    found = Cluster(sandbox)
    found.kubectl("create", "namespace", NAMESPACE)
    yield found
    found.kubectl("delete", "namespace", NAMESPACE, "--timeout=20s")
    until(lambda: f"/{NAMESPACE}/" not in sandbox.sandbox("status", "-o", "json"), 2)


def test_a_deployment_from_birth_to_death(cluster: Cluster) -> None:
    lines = cluster.apply(WEB, "--wait", "15").splitlines()
    assert lines == ["deployment/site created", "service/site created"]
    first = cluster.pods()
    assert len(first) == 2
    owners = cluster.json("pod", first[0])["metadata"]["ownerReferences"]
    assert owners[0]["kind"] == "ReplicaSet"
    assert first[0].startswith(owners[0]["name"] + "-")
    assert cluster.apply(WEB).splitlines() == ["deployment/site unchanged", "service/site unchanged"]

    lines = cluster.apply(WEB.replace('"one"', '"two"')).splitlines()
    assert lines[0] == "deployment/site configured"
    cluster.kubectl("rollout", "status", "deployment/site", "--timeout=20s")
    until(lambda: len(cluster.pods()) == 2)
    second = cluster.pods()
    assert not set(first) & set(second)
    page = cluster.stage.run("curl", "-s", f"http://site.{NAMESPACE}/", place="pod/shop/db-0").stdout
    assert json.loads(page)["namespace"] == "two"
    cluster.kubectl("rollout", "undo", "deployment/site", status=None)

    cluster.kubectl("scale", "deployment/site", "--replicas=3")
    until(lambda: len(cluster.pods()) == 3)
    cluster.kubectl("delete", "deployment/site")
    until(lambda: cluster.pods() == [])
    assert cluster.json("replicasets")["items"] == []


def test_a_rolling_update_interrupts_nobody(cluster: Cluster) -> None:
    polite = WEB.replace(
        "readinessProbe:", "lifecycle: {preStop: {sleep: {seconds: 1}}}\n        readinessProbe:"
    )
    cluster.apply(polite, "--wait", "15")
    get = f"curl -s -m 2 -o /dev/null -w '%{{http_code}}\\n' http://site.{NAMESPACE}/"
    script = f"for n in $(seq 300); do {get}; sleep 0.02; done"
    asking = cluster.stage.command(["sh", "-c", script], "root", "pod/shop/db-0")
    process = subprocess.Popen(asking, stdout=subprocess.PIPE, text=True)
    cluster.apply(polite.replace('"one"', '"two"'))
    cluster.kubectl("rollout", "status", "deployment/site", "--timeout=20s")
    out, _ = process.communicate(timeout=60)
    failed = [line for line in out.split() if line != "200"]
    assert len(out.split()) == 300
    assert failed == []


def test_a_node_port_in_both_families(cluster: Cluster) -> None:
    cluster.apply(WEB, "--wait", "15")
    for address in (*cluster.stage.state["places"]["node-1"]["addresses"], cluster.stage.address("node-2")):
        host = f"[{address}]" if ":" in address else address
        for place in ("control-plane", "node-1", "pod/shop/db-0"):
            page = cluster.stage.run("curl", "-sS", "-m", "2", f"http://{host}:30123/", place=place)
            assert json.loads(page.stdout)["pod"] in cluster.pods()
    refused = cluster.stage.run("curl", "-sS", "http://172.18.0.3:30124/", place="control-plane", status=7)
    assert "Couldn't connect" in refused.stderr


FOLLOW = """
import subprocess, sys, time
address, there = sys.argv[1] + " ", sys.argv[2] == "there"
start = time.monotonic()
while time.monotonic() - start < 5:
    argv = ["nft", "list", "map", "inet", "inroad-services", "ports4"]
    if (address in subprocess.run(argv, capture_output=True, text=True).stdout) == there:
        break
print(time.monotonic() - start)
"""
FAST = """
apiVersion: v1
kind: Service
metadata: {{name: fast}}
spec: {{clusterIP: {address}, selector: {{app: site}}, ports: [{{port: 80, targetPort: 8080}}]}}
"""


def test_rules_follow_within_200_ms(cluster: Cluster) -> None:
    """From the API's answer to the kernel's rules, for a service whose pods run already."""
    cluster.apply(WEB, "--wait", "15")
    for number in range(3):
        address = f"10.96.250.{number + 1}"
        cluster.apply(FAST.format(address=address))
        there = float(
            cluster.stage.run(sys.executable, "-c", FOLLOW, address, "there", place="node-2").stdout
        )
        cluster.stage.sandbox("delete", f"service/{NAMESPACE}/fast")
        gone = float(cluster.stage.run(sys.executable, "-c", FOLLOW, address, "gone", place="node-2").stdout)
        assert there < 0.2
        assert gone < 0.2


def test_a_stateful_set(cluster: Cluster) -> None:
    text = f"""
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: keep}}
spec:
  serviceName: keep
  replicas: 3
  selector: {{matchLabels: {{app: keep}}}}
  template:
    metadata: {{labels: {{app: keep}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        command: ["{sys.executable}", -m, inroad.sandbox.workloads.web, "8080"]
        readinessProbe: {{tcpSocket: {{port: 8080}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: keep}}
spec: {{clusterIP: None, selector: {{app: keep}}, ports: [{{name: http, port: 8080}}]}}
"""
    cluster.apply(text, "--wait", "20")
    assert cluster.pods("app=keep") == ["keep-0", "keep-1", "keep-2"]
    stamps = [cluster.json("pod", f"keep-{n}")["status"]["startTime"] for n in range(3)]
    assert stamps == sorted(stamps)
    uid = cluster.json("pod", "keep-1")["metadata"]["uid"]
    script = "hostname; hostname -f; dig +short +search keep-2.keep; dig +short +search keep | wc -l"
    seen = cluster.stage.run("sh", "-c", script, place=cluster.place("keep-1")).stdout.split()
    assert seen[:2] == ["keep-1", f"keep-1.keep.{NAMESPACE}.svc.cluster.local"]
    assert seen[2] == cluster.json("pod", "keep-2")["status"]["podIP"]
    assert seen[3] == "3"
    cluster.kubectl("delete", "pod", "keep-1")
    until(
        lambda: (
            cluster.json("pods", "keep-1")["metadata"]["uid"] != uid
            if "keep-1" in cluster.pods("app=keep")
            else False
        )
    )
    cluster.kubectl("scale", "statefulset/keep", "--replicas=1")
    until(lambda: cluster.pods("app=keep") == ["keep-0"])


def pod(name: str, script: str, more: str = "", container: str = "") -> str:
    """Return a Pod that runs a shell script."""
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{note: hello}}}}
spec:
  terminationGracePeriodSeconds: 2
  {more}
  containers:
  - name: main
    command: [sh, -c, {json.dumps(script)}]
    {container}
"""


def test_a_crashing_container_is_started_again(cluster: Cluster) -> None:
    cluster.apply(pod("crash", "echo started; sleep 0.2; exit 3"))
    until(lambda: cluster.json("pod", "crash")["status"]["containerStatuses"][0]["restartCount"] >= 2, 15)
    status = cluster.json("pod", "crash")["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert cluster.kubectl("logs", "crash").splitlines()[:2] == ["started", "started"]


def test_a_pod_that_ends_is_finished(cluster: Cluster) -> None:
    cluster.apply(
        pod("once", "echo done", "restartPolicy: Never")
        + "---"
        + pod("bad", "exit 4", "restartPolicy: Never")
    )
    until(lambda: cluster.json("pod", "once")["status"]["phase"] == "Succeeded")
    until(lambda: cluster.json("pod", "bad")["status"]["phase"] == "Failed")


def test_deletion_gives_grace(cluster: Cluster) -> None:
    cluster.apply(
        pod("polite", "trap 'sleep 0.5; echo bye; exit 0' TERM; while :; do sleep 0.1; done"), "--wait", "5"
    )
    start = time.monotonic()
    cluster.kubectl("delete", "pod", "polite")
    assert time.monotonic() - start > 0.5
    log = Path("/run/inroad-sandbox", cluster.stage.name, "logs", f"{NAMESPACE}_polite_main.log")
    assert log.read_text() == "bye\n"
    cluster.apply(pod("stubborn", "trap '' TERM; while :; do sleep 0.1; done"), "--wait", "5")
    start = time.monotonic()
    cluster.stage.sandbox("delete", f"pod/{NAMESPACE}/stubborn")
    assert 1.9 < time.monotonic() - start < 10


def test_a_pod_on_its_node_s_network(cluster: Cluster) -> None:
    more = "hostNetwork: true\n  nodeName: node-2"
    cluster.apply(pod("agent", "sleep 1000", more), "--wait", "5")
    status = cluster.json("pod", "agent")["status"]
    assert status["podIP"] == status["hostIP"] == cluster.stage.address("node-2")
    seen = cluster.stage.run(
        "sh", "-c", "ip -br address; cat /etc/resolv.conf", place=cluster.place("agent")
    ).stdout
    assert "cni0" in seen
    assert "nameserver 192.168.50.1" in seen


def test_volumes_variables_and_rights(cluster: Cluster) -> None:
    config = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red, size: big}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {key: s3cret}
"""
    volumes = """securityContext: {runAsUser: 65532, runAsGroup: 65532}
  volumes:
  - {name: config, configMap: {name: settings}}
  - {name: scratch, emptyDir: {}}
  - name: token
    projected:
      sources:
      - serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 600}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
      - secret: {name: hidden, items: [{key: key, path: deep/key}]}"""
    container = """volumeMounts:
    - {name: config, mountPath: /etc/app}
    - {name: scratch, mountPath: /run/scratch}
    - {name: token, mountPath: /var/run/secrets/tokens}
    envFrom: [{configMapRef: {name: settings}, prefix: S_}]
    env:
    - {name: KEY, valueFrom: {secretKeyRef: {name: hidden, key: key}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: MINE, value: "$(KEY)"}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}"""
    cluster.apply(
        pod("full", "id -u; env | sort; touch /run/scratch/x && echo wrote; sleep 1000", volumes, container)
    )
    until(lambda: cluster.json("pod", "full")["status"]["phase"] == "Pending")
    cluster.apply(config, "--wait", "10")
    until(lambda: "wrote" in cluster.kubectl("logs", "full"))
    lines = cluster.kubectl("logs", "full").splitlines()
    assert lines[0] == "65532"
    assert {"S_color=red", "S_size=big", "KEY=s3cret", "NOTE=hello"} <= set(lines)
    script = """
        cat /etc/app/color; echo
        cat /run/secrets/tokens/labels; echo
        cat /run/secrets/tokens/deep/key; echo
        cut -d. -f2 /run/secrets/tokens/token | base64 -d 2>/dev/null
    """
    seen = cluster.stage.run("sh", "-c", script, place=cluster.place("full"), status=None).stdout
    assert seen.startswith('red\napp="full"\ns3cret\n')
    assert '"aud":["somebody"]' in seen
    cluster.apply(config.replace("red", "green"))
    until(lambda: cluster.stage.run("cat", "/etc/app/color", place=cluster.place("full")).stdout == "green")


def test_an_unmountable_or_missing_thing_is_told(cluster: Cluster) -> None:
    volumes = "volumes: [{name: v, emptyDir: {}}]"
    cluster.apply(pod("nowhere", "sleep 1", volumes, "volumeMounts: [{name: v, mountPath: /no/such}]"))
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: image}\nspec: {containers: [{name: c, image: nginx}]}"
    )

    def reason(name: str) -> str:
        state = cluster.json("pod", name)["status"].get("containerStatuses", [{}])[0].get("state", {})
        return state.get("waiting", {}).get("reason", "")

    until(lambda: reason("nowhere") == "CreatePodSandboxError")
    until(lambda: reason("image") == "ErrImagePull")


def test_liveness(cluster: Cluster) -> None:
    probe = "livenessProbe: {exec: {command: [test, -e, /run/alive]}, periodSeconds: 1, failureThreshold: 1}"
    cluster.apply(pod("live", "touch /run/alive; sleep 1000", "", probe), "--wait", "5")
    cluster.stage.run("rm", "/run/alive", place=cluster.place("live"))
    until(lambda: cluster.json("pod", "live")["status"]["containerStatuses"][0]["restartCount"] == 1)


def test_faults_of_the_network(sandbox: Stage) -> None:
    ask = ("curl", "-sk", "-m", "1", "-o", "/dev/null", "https://192.168.50.20:6443/version")
    assert sandbox.run(*ask).returncode == 0
    sandbox.sandbox("fault", "cut")
    assert "NO-CARRIER" in sandbox.run("ip", "link", "show", "eth0").stdout
    sandbox.run(*ask, status=28)
    sandbox.sandbox("fault", "mend")
    until(lambda: sandbox.run(*ask, status=None).returncode == 0)
    sandbox.sandbox("fault", "blackhole", "seconds=1.5")
    assert "NO-CARRIER" not in sandbox.run("ip", "link", "show", "eth0").stdout
    sandbox.run(*ask, status=28)
    until(lambda: sandbox.run(*ask, status=None).returncode == 0)
    sandbox.sandbox("fault", "refuse")
    sandbox.run(*ask, status=7)
    sandbox.sandbox("fault", "clear")
    assert sandbox.run(*ask).returncode == 0


UDP = """
import socket, sys, time
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.settimeout(0.3)
    sock.connect((sys.argv[1], 7))
    print("on", flush=True)
    deadline, before = time.monotonic() + 20, ""
    while time.monotonic() < deadline:
        try:
            sock.send(b"x")
            sock.recv(10)
            now = "answered"
        except OSError:
            now = "lost"
        if now != before:
            print(now, flush=True)
        before = now
        time.sleep(0.05)
"""


def test_udp_clients_are_led_to_the_new_pod(sandbox: Stage) -> None:
    """A client that keeps its port open is not stuck to the pod that is gone."""
    (old,) = sandbox.pods("shop/echo")
    address = sandbox.run("dig", "+short", "echo.shop.svc.cluster.local", place=old).stdout.strip()
    line = sandbox.command([sys.executable, "-c", UDP, address], "root", "pod/shop/db-0")
    client = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    try:
        assert [client.stdout.readline() for _ in range(2)] == ["on\n", "answered\n"]
        sandbox.sandbox("delete", old, "--grace", "0")
        assert [client.stdout.readline() for _ in range(2)] == ["lost\n", "answered\n"]
    finally:
        client.kill()
        client.communicate()
        # The new pod answers before the kubelet has taken the old one's place down.
        until(lambda: len(sandbox.refresh().pods("shop/echo")) == 1)
