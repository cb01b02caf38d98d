"""The hub: registry, root, grants, relay of envelopes, publication. Off the data path and off the issuance path."""
