"""Making a file from a patch: chosen, fetched, decoded in a confined process, checked by digest.

A delta is a hint by whoever controls the controller. Nothing that comes of a wrong one reaches the
store; what it costs is the patch, after which the file is fetched whole.
"""
