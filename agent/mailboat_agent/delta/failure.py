"""Why a delta came to nothing: stable words for reports, beside what a person reads."""

from enum import StrEnum

from mailboat_schemas.errors import Transient


class Reason(StrEnum):
    """In the order in which they may show."""

    PATCH_MISSING = "patch_missing"  # the server does not have it (any more)
    PATCH_TOO_LONG = "patch_too_long"  # it sends, or announces, more than was signed
    PATCH_INTERRUPTED = "patch_interrupted"  # again and again, without one byte more
    PATCH_ALTERED = "patch_altered"  # other bytes than were signed
    BASE_DAMAGED = "base_damaged"  # the file on this disk is not what its name says; set aside
    PATCH_MALFORMED = "patch_malformed"  # not one whole frame of its format
    WINDOW_TOO_LARGE = "window_too_large"  # it asks for more memory than its files can need
    LENGTH_DIFFERS = "length_differs"  # its header announces another length than was signed
    OUTPUT_TOO_LONG = "output_too_long"
    OUTPUT_TOO_SHORT = "output_too_short"
    OUTPUT_DIFFERS = "output_differs"  # the length that was signed, and other bytes
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TOO_SLOW = "decoder_too_slow"
    DECODER_OVER_MEMORY = "decoder_over_memory"  # over what the delta declares
    TRIED_BEFORE = "tried_before"  # the device went down while it was applied, more than once


# Accidents of everyday: told with the delivery, and no cause for alarm.
EVERYDAY = frozenset({Reason.PATCH_MISSING, Reason.PATCH_INTERRUPTED, Reason.TRIED_BEFORE})


class DeltaFailed(Transient):
    """One delta did not bring its file, which is fetched whole instead."""

    code = "E-DELTA"

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(
            f"A patch came to nothing ({reason}): {problem}.",
            next_step="nothing, the file is fetched whole; if it repeats, look at who can write "
            "to the artifact store and at the caches in between, and build the delta again.",
        )
        self.reason = reason
