"""Who is in: a position per device from a seeded hash, compared with one number.

Position = first 8 bytes of SHA-256(seed, 0x00, device id), as 16 hex digits. A device is in when
its position is at most ``upto``. ``upto`` only grows, so raising it only adds devices. The seed is
the release document's digest: a free seed could be ground until it picks chosen devices.
"""

import hashlib
import math
from collections.abc import Iterable

UPTO_ALL = "f" * 16
UPTO_NONE = ""  # compares below every position
PPM = 1_000_000
CAP_CONFIDENCE = 0.9999
_NEGLIGIBLE = 1e-17


def position(seed: str, device: str) -> str:
    """Where a device stands for this release, as 16 hex digits (they compare like numbers)."""
    digest = hashlib.sha256(seed.encode() + b"\0" + device.encode())
    return digest.hexdigest()[:16]


def start_fraction(seed: str, device: str) -> float:
    """A device's share of the start jitter, 0 to 1, from the other end of the same hash."""
    digest = hashlib.sha256(seed.encode() + b"\0" + device.encode()).digest()
    return int.from_bytes(digest[-4:]) / 2**32


def ranked(seed: str, devices: Iterable[str]) -> list[str]:
    return sorted(devices, key=lambda device: position(seed, device))


def upto_for(seed: str, devices: Iterable[str], count: int) -> str:
    """The number that lets in exactly the first ``count`` of these devices.

    A count of zero gives `UPTO_NONE`, one of all of them or more `UPTO_ALL`.
    """
    order = ranked(seed, devices)
    if count <= 0:
        return UPTO_NONE
    if count >= len(order):
        return UPTO_ALL
    return position(seed, order[count - 1])


def upto_of_ppm(ppm: int) -> str:
    """The position below which ``ppm`` millionths of all positions lie."""
    if ppm <= 0:
        return UPTO_NONE
    return format(min(ppm * 2**64 // PPM, 2**64 - 1), "016x")


def cap_ppm(count: int, devices: int) -> int:
    """How much of the hash space a wave of ``count`` of ``devices`` may at most cover, in ppm.

    The k-th smallest of n uniform positions is Beta(k, n-k+1); its 0.9999 quantile is a cap that
    an honest wave passes 9,999 times in 10,000. 8 of 100 gives 21.5 %: small waves name pilots.

    Source: order statistics of the uniform distribution; DESIGN section 4.
    """
    if count <= 0:
        return 0
    if count >= devices:
        return PPM
    low, high = count / (devices + 1), 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_least(count, devices, middle) < CAP_CONFIDENCE:
            low = middle
        else:
            high = middle
    return min(PPM, math.ceil(high * PPM))


def _at_least(count: int, trials: int, share: float) -> float:
    """P(Binomial(trials, share) >= count): the chance that ``count`` positions lie below share.

    Summed from ``count`` away from the mean, where each term is smaller than the one before: some
    thousand terms for a million trials.
    """
    if share >= 1:
        return 1.0
    odds = share / (1 - share)
    above = share * trials < count
    k = count if above else count - 1
    log_choose = math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
    term = math.exp(log_choose + k * math.log(share) + (trials - k) * math.log1p(-share))
    total = term
    while term > total * _NEGLIGIBLE:
        if above:
            term *= (trials - k) / (k + 1) * odds
            k += 1
        else:
            term *= k / (trials - k + 1) / odds
            k -= 1
        total += term
    return total if above else 1.0 - total
