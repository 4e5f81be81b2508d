"""Reads the protobuf bodies that kubectl sends for what it creates by itself (`create`, `auth`, `drain`).

Answers are always JSON, which such clients accept as well. The messages are those of the API's
`generated.proto` files, as far as kubectl fills them in; a field that is not listed here is refused rather
than lost.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from inroad.sandbox.apiserver.status import bad_request

Json = dict[str, Any]
CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\0"

# name = number : type. Types: s text, b bytes, i integer, f boolean, t time, q quantity, x integer or text,
# or a message. In front of it: * a list, % a map with text keys, ? a field whose zero means something.
# ! is left out (status, managed fields: the server's own).
_MESSAGES = """
ObjectMeta name=1:s generateName=2:s namespace=3:s selfLink=4:s uid=5:s resourceVersion=6:s generation=7:i
  creationTimestamp=8:t deletionTimestamp=9:t deletionGracePeriodSeconds=10:?i labels=11:%s annotations=12:%s
  ownerReferences=13:*OwnerReference finalizers=14:*s managedFields=17:!
OwnerReference kind=1:s name=3:s uid=4:s apiVersion=5:s controller=6:?f blockOwnerDeletion=7:?f
LabelSelector matchLabels=1:%s matchExpressions=2:*LabelSelectorRequirement
LabelSelectorRequirement key=1:s operator=2:s values=3:*s
ConfigMap metadata=1:ObjectMeta data=2:%s binaryData=3:%b immutable=4:?f
Secret metadata=1:ObjectMeta data=2:%b type=3:s stringData=4:%s immutable=5:?f
ServiceAccount metadata=1:ObjectMeta secrets=2:*ObjectReference imagePullSecrets=3:*LocalObjectReference
  automountServiceAccountToken=4:?f
LocalObjectReference name=1:s
ObjectReference kind=1:s namespace=2:s name=3:s uid=4:s apiVersion=5:s resourceVersion=6:s fieldPath=7:s
Namespace metadata=1:ObjectMeta spec=2:NamespaceSpec status=3:!
NamespaceSpec finalizers=1:*s
Service metadata=1:ObjectMeta spec=2:ServiceSpec status=3:!
ServiceSpec ports=1:*ServicePort selector=2:%s clusterIP=3:s type=4:s externalIPs=5:*s sessionAffinity=7:s
  loadBalancerIP=8:s loadBalancerSourceRanges=9:*s externalName=10:s externalTrafficPolicy=11:s
  healthCheckNodePort=12:i publishNotReadyAddresses=13:f ipFamilyPolicy=17:s clusterIPs=18:*s ipFamilies=19:*s
  allocateLoadBalancerNodePorts=20:?f loadBalancerClass=21:s internalTrafficPolicy=22:s
  trafficDistribution=23:s
ServicePort name=1:s protocol=2:s port=3:i targetPort=4:x nodePort=5:i appProtocol=6:s
Deployment metadata=1:ObjectMeta spec=2:DeploymentSpec status=3:!
DeploymentSpec replicas=1:?i selector=2:LabelSelector template=3:PodTemplateSpec strategy=4:DeploymentStrategy
  minReadySeconds=5:i revisionHistoryLimit=6:?i paused=7:f progressDeadlineSeconds=9:?i
DeploymentStrategy type=1:s rollingUpdate=2:RollingUpdateDeployment
RollingUpdateDeployment maxUnavailable=1:x maxSurge=2:x
PodTemplateSpec metadata=1:ObjectMeta spec=2:PodSpec
PodSpec containers=2:*Container restartPolicy=3:s terminationGracePeriodSeconds=4:?i
  activeDeadlineSeconds=5:?i dnsPolicy=6:s nodeSelector=7:%s serviceAccountName=8:s serviceAccount=9:s
  nodeName=10:s hostNetwork=11:f hostPID=12:f hostIPC=13:f imagePullSecrets=15:*LocalObjectReference
  hostname=16:s subdomain=17:s schedulerName=19:s initContainers=20:*Container
  automountServiceAccountToken=21:?f shareProcessNamespace=27:?f enableServiceLinks=30:?f
Container name=1:s image=2:s command=3:*s args=4:*s workingDir=5:s ports=6:*ContainerPort env=7:*EnvVar
  resources=8:ResourceRequirements terminationMessagePath=13:s imagePullPolicy=14:s stdin=16:f stdinOnce=17:f
  tty=18:f terminationMessagePolicy=20:s
ContainerPort name=1:s hostPort=2:i containerPort=3:i protocol=4:s hostIP=5:s
EnvVar name=1:s value=2:s
ResourceRequirements limits=1:%q requests=2:%q
SelfSubjectAccessReview metadata=1:ObjectMeta spec=2:SelfSubjectAccessReviewSpec status=3:!
SelfSubjectAccessReviewSpec resourceAttributes=1:ResourceAttributes
  nonResourceAttributes=2:NonResourceAttributes
ResourceAttributes namespace=1:s verb=2:s group=3:s version=4:s resource=5:s subresource=6:s name=7:s
NonResourceAttributes path=1:s verb=2:s
SelfSubjectRulesReview metadata=1:ObjectMeta spec=2:SelfSubjectRulesReviewSpec status=3:!
SelfSubjectRulesReviewSpec namespace=1:s
SelfSubjectReview metadata=1:ObjectMeta status=2:!
TokenRequest metadata=1:ObjectMeta spec=2:TokenRequestSpec status=3:!
TokenRequestSpec audiences=1:*s boundObjectRef=3:BoundObjectReference expirationSeconds=4:?i
BoundObjectReference kind=1:s apiVersion=2:s name=3:s uid=4:s
Role metadata=1:ObjectMeta rules=2:*PolicyRule
ClusterRole metadata=1:ObjectMeta rules=2:*PolicyRule
PolicyRule verbs=1:*s apiGroups=2:*s resources=3:*s resourceNames=4:*s nonResourceURLs=5:*s
RoleBinding metadata=1:ObjectMeta subjects=2:*Subject roleRef=3:RoleRef
ClusterRoleBinding metadata=1:ObjectMeta subjects=2:*Subject roleRef=3:RoleRef
Subject kind=1:s apiGroup=2:s name=3:s namespace=4:s
RoleRef apiGroup=1:s kind=2:s name=3:s
Eviction metadata=1:ObjectMeta deleteOptions=2:DeleteOptions
DeleteOptions gracePeriodSeconds=1:?i preconditions=2:Preconditions orphanDependents=3:?f
  propagationPolicy=4:s dryRun=5:*s
Preconditions uid=1:s resourceVersion=2:s
"""


def _parse(text: str) -> dict[str, dict[int, tuple[str, str]]]:
    """Return message -> field number -> (name, type)."""
    messages: dict[str, dict[int, tuple[str, str]]] = {}
    for line in text.replace("\n  ", " ").strip().splitlines():
        name, *fields = line.split()
        messages[name] = {}
        for field in fields:
            key, _, rest = field.partition("=")
            number, _, kind = rest.partition(":")
            messages[name][int(number)] = (key, kind)
    return messages


_FIELDS = _parse(_MESSAGES)


def decode(data: bytes) -> Json:
    """Return the object in a body; 400 when it can't be read or holds a kind or field that is not known."""
    if not data.startswith(_MAGIC):
        raise bad_request("the object provided is unrecognized: it does not begin with the protobuf prefix")
    try:
        kind, version, raw = "", "", b""
        for number, value in _fields(data[len(_MAGIC) :]):
            if number == 1:
                named = dict(_fields(value))
                version, kind = _text(named.get(1, b"")), _text(named.get(2, b""))
            elif number == 2:
                raw = value
        if kind not in _FIELDS:
            raise bad_request(f"{kind} can't be read from protobuf here: send JSON")
        return {"kind": kind, "apiVersion": version} | _message(kind, raw)
    except (IndexError, UnicodeDecodeError, TypeError) as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from None


def _message(name: str, data: bytes) -> Json:
    result: Json = {}
    for number, value in _fields(data):
        if number not in _FIELDS[name]:
            raise bad_request(
                f"field {number} of {name} can't be read from protobuf here: send application/json"
            )
        key, kind = _FIELDS[name][number]
        if kind == "!":
            continue
        if kind.startswith("*"):
            result.setdefault(key, []).append(_value(kind[1:], value))
        elif kind.startswith("%"):
            pair = dict(_fields(value))
            result.setdefault(key, {})[_text(pair.get(1, b""))] = _value(kind[1:], pair.get(2, b""))
        else:
            one = _value(kind.lstrip("?"), value)
            if one not in ("", 0, False, None) or kind.startswith("?"):
                result[key] = one
    return result


def _value(kind: str, value: Any) -> Any:
    convert = _CONVERT.get(kind)
    return convert(value) if convert else _message(kind, value)


def _text(value: bytes) -> str:
    return value.decode()


def _number(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _quantity(value: bytes) -> str:
    return _text(dict(_fields(value)).get(1, b""))


def _number_or_text(value: bytes) -> int | str:
    parts = dict(_fields(value))
    return _text(parts.get(3, b"")) if parts.get(1) else _number(parts.get(2, 0))


def _time(value: bytes) -> str | None:
    seconds = dict(_fields(value)).get(1)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "s": _text,
    "b": _base64,
    "i": _number,
    "f": bool,
    "q": _quantity,
    "x": _number_or_text,
    "t": _time,
}


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, bytes or integer) of a message's encoding; IndexError when it is cut."""
    offset = 0
    while offset < len(data):
        tag, offset = _varint(data, offset)
        wire = tag & 7
        if wire == 0:
            value, offset = _varint(data, offset)
            yield tag >> 3, value
        elif wire == 2:
            size, offset = _varint(data, offset)
            if offset + size > len(data):
                raise IndexError("a field is longer than its message")
            yield tag >> 3, data[offset : offset + size]
            offset += size
        else:
            raise TypeError(f"wire type {wire}")


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
        if shift > 63:
            raise TypeError("a number is too long")
