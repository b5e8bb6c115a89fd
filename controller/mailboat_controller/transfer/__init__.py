"""Releases into one file for devices that no network reaches."""
