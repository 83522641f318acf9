"""`python -m resnets` is the command `resnets`."""

import sys

from resnets.cli.main import main

sys.exit(main())
