"""What answers when the release that should answer cannot, or is unsure: declared, and marked.

``breaker``, ``confidence``, ``rule`` and ``pressure`` are pure; ``answers`` puts them in order.
"""
