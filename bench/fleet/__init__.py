"""Ten thousand devices at one controller, on this machine."""
