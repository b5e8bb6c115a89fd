"""The broker as a child process, and the access rules it is given."""
