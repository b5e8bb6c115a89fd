"""Webhooks: outcomes and failures told to other systems, signed, until they have them."""
