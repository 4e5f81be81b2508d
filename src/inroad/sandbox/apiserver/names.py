"""The rules for names and labels, in apimachinery's words (`util/validation`)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

from inroad.sandbox.apiserver.resources import Resource
from inroad.sandbox.apiserver.status import Cause

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_KEY = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")

_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
    "and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_SERVICE_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
    "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for "
    "validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
    "for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_KEY_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, no look-alikes (util/rand)
_PATH_NAMED = ("clusterroles", "clusterrolebindings", "roles", "rolebindings")


def generated(base: str, choose: Callable[[str], str] = random.choice) -> str:
    """Return a name for `generateName`: the base and five characters."""
    return base[:58] + "".join(choose(_SUFFIX_ALPHABET) for _ in range(5))


def name_causes(resource: Resource, name: str) -> list[Cause]:
    """Return what is wrong with an object's name."""
    if resource.plural in _PATH_NAMED:  # RBAC names are path segments: "system:node" is fine
        bad = name in (".", "..") or "/" in name or "%" in name
        return [Cause.invalid("metadata.name", f'"{name}"', "may not contain '/' or '%'")] if bad else []
    if resource.plural == "namespaces":
        rule, limit, text = _LABEL, 63, _LABEL_TEXT
    elif resource.plural == "services":
        rule, limit, text = _SERVICE, 63, _SERVICE_TEXT
    else:
        rule, limit, text = _SUBDOMAIN, 253, _SUBDOMAIN_TEXT
    causes = []
    if len(name) > limit:
        causes.append(Cause.invalid("metadata.name", f'"{name}"', f"must be no more than {limit} characters"))
    if resource.plural == "ipaddresses":  # named for the address: fd00:10:96::1
        return causes
    if not rule.fullmatch(name):
        causes.append(Cause.invalid("metadata.name", f'"{name}"', text))
    return causes


def label_causes(labels: Mapping[str, object], field: str) -> list[Cause]:
    """Return what is wrong with a map of labels."""
    causes = []
    for key, value in labels.items():
        prefix, _, last = key.rpartition("/")
        if not _LABEL_KEY.fullmatch(last) or len(last) > 63:
            causes.append(Cause.invalid(field, f'"{key}"', _KEY_TEXT))
        elif prefix and not _SUBDOMAIN.fullmatch(prefix):
            causes.append(Cause.invalid(field, f'"{key}"', f"prefix part {_SUBDOMAIN_TEXT}"))
        text = str(value)
        if not _LABEL_VALUE.fullmatch(text):
            causes.append(Cause.invalid(field, f'"{text}"', _VALUE_TEXT))
        elif len(text) > 63:
            causes.append(Cause.invalid(field, f'"{text}"', "must be no more than 63 bytes"))
    return causes
