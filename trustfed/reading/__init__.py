"""Reading the protected publication back (S3, HTTPS, a folder), in a process of its own: what it loads stays nowhere resident."""
