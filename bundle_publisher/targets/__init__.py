"""Where documents are published: one port, one file per kind of place."""
