"""Compliance reports: what a process knows of its evidence, judged by control, in the formats that auditors' tools read."""
