"""`python -m uniconv_bench`: the command line, as launchers of several processes start it."""

import sys

from uniconv_bench.cli import main

sys.exit(main())
