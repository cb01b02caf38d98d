"""The hub: registry, root, grants, relay of envelopes, publication. Off the data path and off the issuance path."""

import os

# Pydantic, below FastAPI, reads the metadata of every distribution that is installed for plugins of its own, a tenth of a
# second, and runs what it finds. The hub has none, and wants none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
