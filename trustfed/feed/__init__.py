"""The feed beside each istiod: its cluster's routes, kept on disk, handed over as files or over MCP-over-xDS."""
