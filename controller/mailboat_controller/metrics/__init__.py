"""What Prometheus is told: counted as it happens, read from the database, and of the fleet."""
