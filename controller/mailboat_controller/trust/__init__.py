"""The trust metadata this controller holds: taken in, kept fresh, composed into bundles."""
