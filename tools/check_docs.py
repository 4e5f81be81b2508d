"""Check the documents: links lead somewhere, named files exist, fragments and ADRs keep their form.

* A relative link in a Markdown file must lead to a file of the repository, and its `#anchor` to a heading.
* A path in backticks that begins like one of ours (`src/`, `docs/`, `tests/`, ...) must exist, and so must
  a module named without its root and suffix (`daemon/session`).
* Every configuration key is in `docs/configuration.md`, every error with its exit code in `docs/errors.md`.
* `changes/` holds `<name>.<kind>.md`; `docs/adr/` holds `NNNN-title.md`, numbered without gaps.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from inroad.core.config import KEYS
from inroad.core.errors import InroadError

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:src|docs|tests|tools|bench|examples|charts|changes|requirements)/[\w./-]+)`")
MODULE = re.compile(r"`((?:agent|cli|core|daemon|host|kube|manager|origin|sandbox|tunnel)/[a-z_/]+)`")
FENCE = re.compile(r"(?ms)^```.*?^```\s*$")
KINDS = ("added", "changed", "fixed", "removed", "security")


def anchors(text: str) -> set[str]:
    """Return the anchors that the headings of a Markdown text make."""
    headings = re.findall(r"(?m)^#{1,6}\s+(.+?)\s*$", FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def link_problems(path: Path) -> Iterator[str]:
    """Yield links and paths of one document that lead nowhere."""
    text = path.read_text()
    name = path.relative_to(ROOT)
    prose = FENCE.sub("", text)
    for match in LINK.finditer(prose):
        target = match.group(1) or match.group(2)
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        destination = (path.parent / file).resolve() if file else path
        if not destination.exists():
            yield f"{name}: link to {target}, which does not exist"
        elif anchor and destination.suffix == ".md" and anchor not in anchors(destination.read_text()):
            yield f"{name}: link to {target}: no such heading"
    for match in NAMED.finditer(prose):
        if not (ROOT / match.group(1)).exists():
            yield f"{name}: names `{match.group(1)}`, which does not exist"
    for match in MODULE.finditer(prose):
        module = ROOT / "src/inroad" / match.group(1)
        if not module.is_dir() and not module.with_suffix(".py").exists():
            yield f"{name}: names the module `{match.group(1)}`, which does not exist"


def form_problems() -> Iterator[str]:
    """Yield fragments and ADRs that are named wrongly."""
    for path in sorted((ROOT / "changes").iterdir()):
        if path.name != "README.md" and not re.fullmatch(rf"[a-z0-9-]+\.({'|'.join(KINDS)})\.md", path.name):
            yield f"changes/{path.name}: must be <name>.<{'|'.join(KINDS)}>.md"
    records = sorted(path.name for path in (ROOT / "docs/adr").glob("*.md") if path.name != "README.md")
    index = (ROOT / "docs/adr/README.md").read_text()
    for number, record in enumerate(records, start=1):
        if not re.fullmatch(rf"{number:04}-[a-z0-9-]+\.md", record):
            yield f"docs/adr/{record}: expected {number:04}-<title>.md"
        if f"({record})" not in index:
            yield f"docs/adr/README.md: does not list {record}"


def reference_problems() -> Iterator[str]:
    """Yield keys and errors that the reference pages do not have, and those that exist no more."""
    keys = {key.name for key in KEYS}
    text = (ROOT / "docs/configuration.md").read_text()
    listed = set(re.findall(r"(?m)^\| `([\w.]+)` \|", text))
    for key in sorted(keys ^ listed):
        yield f"docs/configuration.md: {key} is {'missing' if key in keys else 'no key'}"
    classes = [InroadError, *InroadError.__subclasses__()]
    errors = {(str(cls.exit_code), cls.code) for cls in classes}
    rows = set(re.findall(r"(?m)^\| (\d+) \| `([\w-]+)` \|", (ROOT / "docs/errors.md").read_text()))
    for number, code in sorted(errors ^ rows):
        yield f"docs/errors.md: {code} ({number}) is {'missing' if (number, code) in errors else 'no error'}"


def documents() -> list[Path]:
    """Return the Markdown files of the repository."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).exists()]


def main() -> int:
    """Print every problem; 1 when there is any."""
    problems = [line for path in documents() for line in link_problems(path)]
    problems += [*form_problems(), *reference_problems()]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
