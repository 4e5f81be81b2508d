"""Keep modules and functions small: at most 400 lines a module, 50 a function."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES = 400
FUNCTION_LINES = 50


def oversized(path: Path) -> Iterator[str]:
    """Yield a line for each thing in the module that is over budget."""
    text = path.read_text()
    name = path.relative_to(ROOT)
    lines = text.count("\n")
    if lines > MODULE_LINES:
        yield f"{name}: {lines} lines, at most {MODULE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {size} lines, at most {FUNCTION_LINES}"


def main() -> int:
    """Print what is over budget; 1 when anything is."""
    problems = [line for path in sorted((ROOT / "src").rglob("*.py")) for line in oversized(path)]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
