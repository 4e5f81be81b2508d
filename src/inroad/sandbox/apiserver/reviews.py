"""Kinds that are questions: who am I, may I, whose token is this."""

from __future__ import annotations

from typing import Any

from inroad.sandbox.apiserver.auth import Authenticator, User
from inroad.sandbox.apiserver.requests import Target
from inroad.sandbox.apiserver.resources import RESOURCES, VERBS, Resource
from inroad.sandbox.apiserver.rights import Authorizer, PathTarget
from inroad.sandbox.apiserver.status import Cause, bad_request, invalid
from inroad.sandbox.apiserver.tokens import ISSUER

Json = dict[str, Any]


class Reviews:
    """Answers them."""

    def __init__(self, authenticator: Authenticator, authorizer: Authorizer) -> None:
        self.authenticator = authenticator
        self._authorizer = authorizer

    def answer(self, target: Target, obj: Json, user: User) -> Json:
        """Return the question with its answer as status."""
        spec = obj.get("spec", {})
        match target.resource.kind:
            case "TokenReview":
                status = self._token(spec)
            case "SelfSubjectReview":
                status = {"userInfo": user.info()}
            case "SelfSubjectRulesReview":
                status = self._rules(user, spec.get("namespace", ""))
            case "SelfSubjectAccessReview":
                status = self._access(user, spec)
            case kind:
                if kind == "LocalSubjectAccessReview":
                    inside = spec.get("resourceAttributes", {}).get("namespace")
                    if inside != target.namespace:
                        raise bad_request(f"spec.resourceAttributes.namespace must match namespace: {inside}")
                extra = {key: tuple(values) for key, values in (spec.get("extra") or {}).items()}
                subject = User(
                    spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""), extra
                )
                if not subject.name and not subject.groups:
                    cause = Cause.invalid(
                        "spec.user", '""', "at least one of user or group must be specified"
                    )
                    raise invalid(target.resource, "", [cause])
                status = self._access(subject, spec)
        metadata = obj.get("metadata") or {}
        head = {"kind": target.resource.kind, "apiVersion": target.resource.group_version}
        asked = {"spec": spec} if "spec" in obj else {}
        return head | {"metadata": metadata, **asked, "status": status}

    def _token(self, spec: Json) -> Json:
        token = spec.get("token", "")
        audiences = spec.get("audiences") or [ISSUER]
        for audience in audiences:
            user = self.authenticator.user_of_token(token, audience)
            if user is not None:
                valid = [one for one in audiences if self.authenticator.user_of_token(token, one)]
                return {"authenticated": True, "user": user.info(), "audiences": valid}
        return {"user": {}, "error": "invalid bearer token"}

    def _access(self, user: User, spec: Json) -> Json:
        attributes = spec.get("resourceAttributes")
        if attributes is None:
            path = spec.get("nonResourceAttributes") or {}
            target = PathTarget(path.get("verb", ""), path.get("path", ""))
            return _decision(self._authorizer.allows_path(user, target))
        return _decision(self._authorizer.allows(user, _target_of(attributes)))

    def _rules(self, user: User, namespace: str) -> Json:
        """List what each resource allows: right for any authorizer, if longer than RBAC's own list."""
        rules = []
        for resource in RESOURCES:
            names = ("", *resource.subresources)
            for subresource in names:
                verbs = [
                    verb
                    for verb in (resource.verbs if not subresource else VERBS)
                    if self._authorizer.allows(user, Target(verb, resource, namespace, "", subresource))
                ]
                if verbs:
                    name = f"{resource.plural}/{subresource}" if subresource else resource.plural
                    rules.append({"verbs": verbs, "apiGroups": [resource.group], "resources": [name]})
        return {"resourceRules": rules, "nonResourceRules": [], "incomplete": False}


def _target_of(attributes: Json) -> Target:
    group, plural = attributes.get("group", ""), attributes.get("resource", "")
    known = (one for one in RESOURCES if (one.plural, one.group) == (plural, group))
    resource = next(known, None) or Resource(plural, plural, group)
    return Target(
        attributes.get("verb", ""),
        resource,
        attributes.get("namespace") or None,
        attributes.get("name", ""),
        attributes.get("subresource", ""),
    )


def _decision(allowed: bool) -> Json:
    return {"allowed": allowed}
