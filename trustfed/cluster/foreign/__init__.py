"""Federation with SPIFFE trust domains that are no members of this federation: fetched, judged, signed by ourselves."""
