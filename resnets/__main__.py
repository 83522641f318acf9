"""Lets `python -m resnets` stand for the `resnets` command."""

import os
import sys

from resnets.cli.main import main

if __name__ == "__main__":
    code = main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # All is written and closed. The threads of torch's process groups may abort a process that
        # ends the usual way ("terminate called without an active exception").
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
