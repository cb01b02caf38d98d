"""What this node can prove about its SVIDs (delivered, loaded, confirmed, ...), on its way to the cluster's ledger."""
