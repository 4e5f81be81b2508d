"""Pin every dependency with its hashes: `make lock` (or `make lock ARGS=--upgrade`).

The three files of `requirements/` hold for Linux, macOS and Windows and for every Python that the
project supports. They name no package index: which one is asked is the business of whoever installs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES: dict[str, tuple[str, ...]] = {
    "runtime": ("pyproject.toml",),
    "build": ("--group", "build"),
    "dev": ("pyproject.toml", "--group", "dev", "-c", "requirements/runtime.txt"),
}


def compile_file(name: str, extra: list[str]) -> None:
    """Write `requirements/<name>.txt`."""
    argv = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.11",
    ]
    argv += [
        "--generate-hashes",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--no-header",
        "--no-annotate",
    ]
    target = f"requirements/{name}.txt"
    subprocess.run([*argv, *extra, *FILES[name], "-o", target], cwd=ROOT, check=True)
    pins = re.findall(r"(?m)^[a-z0-9]", (ROOT / target).read_text())
    print(f"{target}: {len(pins)} packages")


def main() -> int:
    """Compile all files; uv is installed into the environment when it is not there."""
    if subprocess.run([sys.executable, "-c", "import uv"], capture_output=True, check=False).returncode:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "uv"], check=True)
    for name in FILES:
        compile_file(name, sys.argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
