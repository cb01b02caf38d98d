"""The mesh at the hub: what each domain says of its gateways, exports and imports, and who hears of it."""
