"""What a device does next, decided without touching anything: no I/O, no clock, no await.

``decide`` is the way in. The reconciler observes, asks here, records the answer, and acts on it.
"""
