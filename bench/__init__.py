"""`make bench`: speed and memory of trustfed, and of SPIRE beside it."""
