"""The mesh of one cluster: what it says of its own services and gateways, what it hears of others', and what follows."""
