"""Deltas built in the background from what the fleet runs, checked, and offered to devices."""
