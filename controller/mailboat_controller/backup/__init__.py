"""A controller in one encrypted file, and back: database, keys, certificates, settings."""
