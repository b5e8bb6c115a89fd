"""How the decoder's process tells what was wrong; anything else is a crash.

Apart from the decoder, so that the agent knows the numbers without what decoding needs.
"""

MALFORMED, WINDOW, LENGTH, MEMORY = 10, 11, 12, 13
