"""Where a program that others make is installed: beside this Python, as a package brought it, or in PATH."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def installed(name: str) -> str | None:
    """The path of program `name`; None where it is not installed."""
    return shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
