"""`python -m inroad` is the `inroad` command."""

from inroad.cli.main import main

if __name__ == "__main__":
    main()
