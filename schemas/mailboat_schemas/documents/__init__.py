"""The documents people write, in YAML, and the release document that is built from one of them."""

from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.release import ReleaseDocument, ReleaseSource
from mailboat_schemas.documents.rollout import Rollout

__all__ = ["HardwareClass", "ReleaseDocument", "ReleaseSource", "Rollout"]
