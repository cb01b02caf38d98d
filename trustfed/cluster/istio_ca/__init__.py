"""What Istio's own machinery asks of a CA: its certificate protocol, its plugged-in CA, and a mesh that moves to a domain."""
