"""`python -m inroad.sandbox`: the command without the rest of the CLI."""

import sys

assert sys.platform == "linux"  # noqa: S101

from inroad.core.errors import InroadError
from inroad.sandbox.commands import group

if __name__ == "__main__":
    try:
        group(prog_name="inroad sandbox")
    except InroadError as error:
        print(f"inroad: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
