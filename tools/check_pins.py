"""Check that `requirements/` pins what `pyproject.toml` asks for, with hashes and without index addresses."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"(?m)^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^ ;\\]+)")


def wanted() -> dict[str, list[str]]:
    """Return the requirements that each file must satisfy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    runtime: list[str] = project["project"]["dependencies"]
    build: list[str] = groups["build"]
    dev = [entry for entry in groups["dev"] if isinstance(entry, str)]
    return {"runtime": runtime, "build": build, "dev": [*runtime, *build, *dev]}


def problems(name: str, requirements: list[str]) -> Iterator[str]:
    """Yield what is wrong with `requirements/<name>.txt`."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    pins = {canonicalize_name(found["name"]): found["version"] for found in PIN.finditer(text)}
    for requirement in map(Requirement, requirements):
        version = pins.get(canonicalize_name(requirement.name))
        if version is None:
            yield f"requirements/{name}.txt: {requirement.name} is not pinned; run `make lock`"
        elif not requirement.specifier.contains(version):
            yield f"requirements/{name}.txt: {requirement} is pinned to {version}; run `make lock`"
    if text.count("==") > text.count("--hash=sha256:"):
        yield f"requirements/{name}.txt: a pin without a hash"
    if re.search(r"://|--(index|extra|find|trusted)", text):
        yield f"requirements/{name}.txt: names a package index"


def main() -> int:
    """Print every problem; 1 when there is any."""
    found = [line for name, requirements in wanted().items() for line in problems(name, requirements)]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
