"""Where releases are imported from: a registry, a bucket, a directory."""
