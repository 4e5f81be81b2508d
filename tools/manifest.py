"""Render the chart into the package, for `inroad install` without helm: `make manifest`.

`python tools/manifest.py --check` says whether the manifest is what the chart renders to. It needs no helm:
the manifest's first lines hold a digest of the chart's files and one of the rest of the manifest.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts/inroad"
MANIFEST = ROOT / "src/inroad/cli/manifest.yaml"
NAMESPACE = "inroad"
VERSION = "1.29.0"
"""Of Kubernetes: an old one, because a field that a server does not know makes it refuse the whole object."""
HEADER = (
    "# What the chart renders to with its default values, made by `make manifest`: change the chart instead."
)


def digest(data: bytes) -> str:
    """Return a short digest."""
    return hashlib.sha256(data).hexdigest()[:32]


def chart_digest() -> str:
    """Return a digest of the chart's files and their names."""
    files = sorted(path for path in CHART.rglob("*") if path.is_file())
    return digest(
        b"\0".join(f.relative_to(CHART).as_posix().encode() + b"\0" + f.read_bytes() for f in files)
    )


def normalise(body: dict[str, Any]) -> dict[str, Any]:
    """Return an object without what is helm's own."""
    labels = body["metadata"].get("labels", {})
    labels.pop("helm.sh/chart", None)
    if "app.kubernetes.io/managed-by" in labels:
        labels["app.kubernetes.io/managed-by"] = "inroad"
    return body


def render() -> str:
    """Return the manifest's text without its header, as helm renders it now."""
    sys.path.insert(0, str(ROOT))
    from tools import helm  # noqa: PLC0415 - only rendering needs it

    where = ("inroad", str(CHART), "-n", NAMESPACE, "--kube-version", VERSION)
    argv = [str(helm.find(pinned=True)), "template", *where]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"manifest: {done.stderr}")
    objects = [normalise(body) for body in yaml.safe_load_all(done.stdout) if body]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return str(yaml.safe_dump_all([namespace, *objects], sort_keys=True))


def write() -> None:
    """Write the manifest."""
    body = render()
    MANIFEST.write_text(f"{HEADER}\n# chart {chart_digest()}\n# body {digest(body.encode())}\n{body}")
    print(f"manifest: wrote {MANIFEST.relative_to(ROOT)}")


def problem() -> str:
    """Say what is wrong with the manifest; empty when nothing is."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    if not chart["version"] == chart["appVersion"] == version:
        return f"charts/inroad/Chart.yaml is for {chart['version']}, the project is {version}"
    header, chart_line, body_line, *rest = [*MANIFEST.read_text().split("\n", 3), "", "", ""][:4]
    if (header, chart_line) != (HEADER, f"# chart {chart_digest()}"):
        return "the chart has changed since the manifest was rendered; run `make manifest`"
    if body_line != f"# body {digest(rest[0].encode())}":
        return f"{MANIFEST.relative_to(ROOT)} was edited by hand; change the chart and run `make manifest`"
    return ""


def main() -> int:
    """Write the manifest, or check it."""
    if sys.argv[1:] != ["--check"]:
        write()
        return 0
    found = problem()
    if found:
        print(f"manifest: {found}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
