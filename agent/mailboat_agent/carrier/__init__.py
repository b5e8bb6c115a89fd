"""Releases that somebody carries here in a file: copied into a spool, taken up by the agent."""
