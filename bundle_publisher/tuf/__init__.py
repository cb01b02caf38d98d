"""The protected publication: a TUF repository (python-tuf) in which each trust domain signs its own part."""
