"""Rollback drills: ordered here, made by the devices."""
