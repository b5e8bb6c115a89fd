"""The agent's log: to stderr for a collector, and a bounded piece of it on the device's disk, for
whoever asks later (docs/logs.md)."""
