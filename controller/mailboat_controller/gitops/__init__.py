"""Declared in files, kept in Git: what operators want, compared with what stands and applied."""
