"""Istio resources from what domains say of their meshes. Pure: the same items, the same bytes."""
