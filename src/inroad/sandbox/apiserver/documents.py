"""What the server says about itself: version, health, discovery."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from inroad.sandbox.apiserver import discovery, openapi
from inroad.sandbox.apiserver.auth import Authenticator
from inroad.sandbox.apiserver.collection import encode
from inroad.sandbox.apiserver.resources import RESOURCES, Resource
from inroad.sandbox.apiserver.store import Store
from inroad.sandbox.apiserver.tokens import ISSUER

Json = dict[str, Any]


def served(store: Store, resource: Resource) -> bool:
    """Return True when the store's Kubernetes version has the resource."""
    return store.version >= resource.since


def answer(request: web.BaseRequest, store: Store, authenticator: Authenticator) -> web.Response:
    """Answer a GET of a path that is no resource."""
    path = request.path.rstrip("/") or "/"
    if path in ("/healthz", "/livez", "/readyz"):
        return web.Response(text="ok")
    if path in ("/api", "/apis") and discovery.AGGREGATED in request.headers.get("Accept", ""):
        inside = [one for one in RESOURCES if served(store, one) and bool(one.group) == (path == "/apis")]
        return web.Response(
            body=encode(discovery.aggregated(inside)), headers={"Content-Type": discovery.AGGREGATED}
        )
    document = _document(path, request.host, store, authenticator)
    if document is None:
        document = openapi.document(path, [one for one in RESOURCES if served(store, one)])
    if document is None:
        return web.Response(status=404, text="404 page not found\n")
    return web.Response(body=encode(document), content_type="application/json")


def _document(  # noqa: PLR0911 -- a table
    path: str, host: str, store: Store, authenticator: Authenticator
) -> Json | None:
    resources = [resource for resource in RESOURCES if served(store, resource)]
    groups = sorted({resource.group for resource in resources if resource.group})
    match path.split("/")[1:]:
        case ["version"]:
            return version_info(store.version)
        case ["api"]:
            return {
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}],
            }
        case ["apis"]:
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [discovery.group(name, resources) for name in groups],
            }
        case ["api", "v1"]:
            return discovery.resource_list("v1", [r for r in resources if not r.group])
        case ["apis", group] if group in groups:
            return {"kind": "APIGroup", "apiVersion": "v1"} | discovery.group(group, resources)
        case ["apis", group, version]:
            inside = [r for r in resources if (r.group, r.version) == (group, version)]
            return discovery.resource_list(f"{group}/{version}", inside) if inside else None
        case [".well-known", "openid-configuration"]:
            return {
                "issuer": ISSUER,
                "jwks_uri": f"https://{host}/openid/v1/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }
        case ["openid", "v1", "jwks"]:
            return authenticator.issuer.keys()
    return None


def version_info(version: tuple[int, int]) -> Json:
    """Return the answer of /version."""
    major, minor = version
    return {
        "major": str(major),
        "minor": str(minor),
        "gitVersion": f"v{major}.{minor}.0+inroad-sandbox",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }
