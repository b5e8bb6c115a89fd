"""A fleet on a virtual clock: the production decisions of both sides, everything else made up.

What decides here is what decides there (`eligibility`, the agent's `update` and `outbox`, the
controller's `rollout` and watermark rule). Made up are the network, the power, the clocks, the
disks, and what a release does on a device; signatures are a key's name.
"""
