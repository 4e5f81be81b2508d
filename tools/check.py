"""Run every check of the project, two at a time, and say which failed: `make check`.

A check is a program that ends with 0. Its output is shown only when it failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PLATFORMS = ("linux", "darwin", "win32")


@dataclass(frozen=True)
class Check:
    """A name for people and what is run."""

    name: str
    argv: tuple[str, ...]


def checks() -> list[Check]:
    """Return the checks, the slow ones first."""
    python = sys.executable
    types = [
        Check(f"types ({name})", (f"{BIN}/mypy", "--platform", name, "--cache-dir", f".mypy_cache/{name}"))
        for name in PLATFORMS
    ]
    bench = (f"{BIN}/mypy", "--cache-dir", ".mypy_cache/bench", "bench")  # runs on Linux only
    return [
        *types,
        Check("types (bench)", bench),
        Check("layers", (f"{BIN}/lint-imports",)),
        Check("format", (f"{BIN}/ruff", "format", "--check", ".")),
        Check("lint", (f"{BIN}/ruff", "check", ".")),
        Check("documents", (python, "tools/check_docs.py")),
        Check("pins", (python, "tools/check_pins.py")),
        Check("manifest", (python, "tools/manifest.py", "--check")),
        Check("sizes", (python, "tools/check_sizes.py")),
    ]


def run(check: Check) -> tuple[Check, int, str, float]:
    """Run one check; return it with its exit status, output and seconds."""
    begin = time.monotonic()
    done = subprocess.run(
        check.argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return check, done.returncode, done.stdout + done.stderr, time.monotonic() - begin


def main() -> int:
    """Run all checks; 1 when any failed."""
    failed: list[str] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for check, status, output, seconds in pool.map(run, checks()):
            print(f"{'FAILED' if status else 'ok':7}{check.name:16}{seconds:6.1f} s", flush=True)
            if status:
                failed.append(check.name)
                print(output.rstrip(), flush=True)
    if failed:
        print(f"check: failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
