"""What is said on the wire and what it means: the ground floor of Mailboat.

No network, no database, no clock, no async. Controller and agent both stand on this package and
never on each other.
"""

CONTRACT_VERSION = 1  # the number in every topic and payload
