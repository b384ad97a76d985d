"""`python -m specctl`."""

import sys

from specctl.cli.main import main

sys.exit(main())
