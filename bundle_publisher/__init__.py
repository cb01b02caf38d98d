"""Publishes the federation's bundles for readers that only poll: documents, targets, and the loop between them."""
