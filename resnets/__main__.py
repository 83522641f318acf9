"""Lets `python -m resnets` stand for the `resnets` command."""

import sys

from resnets.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
