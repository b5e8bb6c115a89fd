"""When the interpreter looks for garbage, in a process that takes in what a fleet says.

Messages make some hundred objects each and hardly any circles. By its defaults the collector looks
through them every 700 objects, and now and then through every module and table there is: a sixth
of the time that taking in costs.
"""

import gc

# New objects until the young ones are looked through: those of some dozens of messages, a few
# megabytes. The older generations follow by the interpreter's own rule.
YOUNG_OBJECTS_MAX = 20_000


def settle() -> None:
    """For the beginning of a long process, once its modules are there: they stay for good."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX)
