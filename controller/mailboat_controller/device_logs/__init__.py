"""Logs of devices: asking for them, and taking in what comes (docs/logs.md)."""
