"""`python -m niclab.cli`."""

import sys

from niclab.cli import main

sys.exit(main())
