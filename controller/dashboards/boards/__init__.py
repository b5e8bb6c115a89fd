"""The dashboards: what an operator asks, one panel for each question. Written by `write.py`."""

from boards.device import DEVICE
from boards.fleet import FLEET
from boards.live import LIVE
from boards.quality import QUALITY
from boards.rollout import ROLLOUT
from boards.sites import SITES

BOARDS = (FLEET, ROLLOUT, DEVICE, SITES, QUALITY, LIVE)
