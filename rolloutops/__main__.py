"""`python -m rolloutops`."""

import sys

from rolloutops.cli import main

sys.exit(main())
