"""What a device downloads for an update, by every tool there is: ``python -m bench.delta``."""
