"""A small, bounded gRPC server for Unix sockets: `h2` underneath, the caller's identity fixed at accept."""
