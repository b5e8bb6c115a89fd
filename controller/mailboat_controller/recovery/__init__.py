"""Coming back after a disaster: nothing is published before the fleet has been heard."""
