"""Desired state: a directory of YAML documents that says what this cluster's mesh is to be."""
