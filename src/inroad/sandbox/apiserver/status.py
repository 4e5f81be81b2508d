"""What the API answers instead of an object: `Status` bodies with the server's own words.

The texts are those of k8s.io/apimachinery `api/errors`: clients, ours among them, read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inroad.sandbox.apiserver.resources import Resource

Json = dict[str, Any]


class ApiError(Exception):
    """A request failed: HTTP status `code`, machine-readable `reason`, text, details and extra headers."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Json | None = None,
        headers: Mapping[str, str] | None = None,
        continue_token: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = dict(headers or {})
        self.continue_token = continue_token

    def body(self) -> Json:
        """Return the `Status` object."""
        metadata = {"continue": self.continue_token} if self.continue_token else {}
        status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        status["code"] = self.code
        return status


def details_of(resource: Resource, name: str) -> Json:
    """Return the `details` that name one object of a resource."""
    details: Json = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    return details


def not_found(resource: Resource, name: str) -> ApiError:
    """404: no such object."""
    return ApiError(
        404, "NotFound", f'{resource.qualified} "{name}" not found', details=details_of(resource, name)
    )


def no_such_resource() -> ApiError:
    """404: the group is served, the resource is not."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: create of a name that is taken."""
    return ApiError(
        409,
        "AlreadyExists",
        f'{resource.qualified} "{name}" already exists',
        details=details_of(resource, name),
    )


def conflict(resource: Resource, name: str, why: str = "") -> ApiError:
    """409: the caller's resourceVersion or precondition does not hold."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}',
        details=details_of(resource, name),
    )


class Cause:
    """One broken field, in the words of apimachinery's `field.Error`."""

    def __init__(self, reason: str, field: str, message: str) -> None:
        self.reason = reason
        self.field = field
        self.message = message

    @classmethod
    def required(cls, field: str, why: str = "") -> Cause:
        """Return the cause for a field that is missing."""
        return cls("FieldValueRequired", field, "Required value" + (f": {why}" if why else ""))

    @classmethod
    def invalid(cls, field: str, value: str, why: str) -> Cause:
        """Return the cause for a wrong value; `value` as the server prints it (strings quoted)."""
        return cls("FieldValueInvalid", field, f"Invalid value: {value}: {why}")

    @classmethod
    def unsupported(cls, field: str, value: str, allowed: Sequence[str]) -> Cause:
        """Return the cause for a value outside a closed set."""
        choices = ", ".join(f'"{choice}"' for choice in sorted(allowed))
        return cls(
            "FieldValueNotSupported", field, f'Unsupported value: "{value}": supported values: {choices}'
        )

    @classmethod
    def forbidden(cls, field: str, why: str) -> Cause:
        """Return the cause for a field that may not be set or changed."""
        return cls("FieldValueForbidden", field, f"Forbidden: {why}")

    @classmethod
    def duplicate(cls, field: str, value: str) -> Cause:
        """Return the cause for a value that occurs twice."""
        return cls("FieldValueDuplicate", field, f"Duplicate value: {value}")

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """422: the object breaks the rules of its kind."""
    text = str(causes[0]) if len(causes) == 1 else "[" + ", ".join(map(str, causes)) + "]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details: Json = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.kind
    details["causes"] = [
        {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
    ]
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {text}', details=details)


def invalid_field(kind: str, field: str, why: str) -> ApiError:
    """422: a parameter of a request's options can't be had."""
    return ApiError(
        422,
        "Invalid",
        f'{kind} "" is invalid: {field}: Forbidden: {why}',
        details={"kind": kind, "causes": [{"reason": "FieldValueForbidden", "message": why, "field": field}]},
    )


def forbidden(resource: Resource, name: str, why: str, causes: Sequence[Json] = ()) -> ApiError:
    """403: admission or authorization said no."""
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    details = details_of(resource, name)
    if causes:
        details["causes"] = list(causes)
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", details=details)


def unauthorized() -> ApiError:
    """401: nobody we know."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> ApiError:
    """400: the request can't be understood."""
    return ApiError(400, "BadRequest", message)


def method_not_allowed() -> ApiError:
    """405: the resource has no such verb."""
    return ApiError(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        details={},
    )


def unsupported_media_type(allowed: Sequence[str]) -> ApiError:
    """415: the body's content type is not one of `allowed`."""
    return ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(allowed),
    )


def expired(message: str, continue_token: str = "") -> ApiError:
    """410: that version of the world is no longer kept."""
    return ApiError(410, "Expired", message, continue_token=continue_token)


def too_old(asked: int, oldest: int) -> ApiError:
    """410: a watch asked for a version before the kept history."""
    return expired(f"too old resource version: {asked} ({oldest})")


def too_many_requests(retry_after: int) -> ApiError:
    """429: come back after `retry_after` seconds."""
    return ApiError(
        429,
        "TooManyRequests",
        "the server has received too many requests and has asked us to try again later",
        details={"retryAfterSeconds": retry_after},
        headers={"Retry-After": str(retry_after)},
    )


def internal(message: str) -> ApiError:
    """500: the server's fault."""
    return ApiError(
        500,
        "InternalError",
        f"Internal error occurred: {message}",
        details={"causes": [{"message": message}]},
    )
