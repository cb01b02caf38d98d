"""Where a store may be: one file per kind, opened by open.py."""
