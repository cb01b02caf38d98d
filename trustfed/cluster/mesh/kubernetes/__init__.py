"""What the cluster's own Kubernetes says of its services: exports by annotation, and what is known of hosts inside."""
