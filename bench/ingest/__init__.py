"""How fast what devices tell comes from the broker into the database."""
