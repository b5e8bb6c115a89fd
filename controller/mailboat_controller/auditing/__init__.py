"""The audit log as others can check it: its signed head, and the file it is exported to."""
