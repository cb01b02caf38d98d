"""What this software says of itself to its peers, and the protocol version that it speaks with them."""

from __future__ import annotations

VERSION = "0.1.0"
"""As in pyproject.toml; a constant, because an agent does not carry the reader of package metadata."""
SOFTWARE = f"trustfed/{VERSION}"
PROTOCOL = 1
"""Of the streams between hub, clusters and agents (docs/reference/wire.md)."""
