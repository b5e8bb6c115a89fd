"""When the interpreter looks for garbage: seldom while it starts, and never among what stays.

By its defaults the collector looks through new objects every 700 of them, and now and then through
every module and table there is. A start makes some hundred thousand objects, which nearly all
stay; messages make some hundred each and hardly any circles. It is a sixth of the time that
either takes.
"""

import gc

# New objects until the young ones are looked through: those of some dozens of messages, a few
# megabytes. The older generations follow by the interpreter's own rule.
YOUNG_OBJECTS_MAX = 20_000


def look_seldom() -> None:
    """For the beginning of every command, before it imports."""
    gc.set_threshold(YOUNG_OBJECTS_MAX)


def settle() -> None:
    """For the beginning of a long process, once its modules are there: they stay for good.

    Nothing is collected first: of all that importing makes a few dozen objects are garbage, and to
    find them takes as long as a tenth of the imports.
    """
    look_seldom()
    gc.freeze()
