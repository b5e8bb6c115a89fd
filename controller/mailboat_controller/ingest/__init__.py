"""From messages of devices to rows: each once, in order, acknowledged when committed."""
