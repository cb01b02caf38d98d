"""`python -m trustfed.cli`: the trustfed command, also where no script was installed."""

from __future__ import annotations

import sys

from trustfed.cli.start import main

sys.exit(main())
