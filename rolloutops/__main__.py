"""`python -m rolloutops`."""

import sys

from rolloutops.cli.main import main

sys.exit(main())
