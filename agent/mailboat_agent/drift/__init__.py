"""What is on the disk, compared from time to time with what it must be, and repaired.

Bytes that were verified once rot, or are changed. What serves is in memory and serves on; the next
start needs the disk.
"""
