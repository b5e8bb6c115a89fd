"""Building deltas: bytes in, bytes out. Which pairs are worth it is decided elsewhere."""
