"""A small, bounded gRPC server: `h2` underneath, the caller's identity fixed at accept. On Unix sockets and loopback ports."""
