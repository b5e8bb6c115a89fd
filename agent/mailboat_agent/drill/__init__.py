"""Rollback drills: the release before is tried and made ready beside what serves, and let go."""
