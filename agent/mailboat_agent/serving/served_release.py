"""A release as the runtime serves it."""

from dataclasses import dataclass

from mailboat_agent.serving.bundle import NO_BUNDLE, Bundle
from mailboat_agent.serving.declared_ports import declared_ports
from mailboat_agent.serving.process import Description
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import Variant
from mailboat_schemas.documents.serving_policy import ServingPolicy

_DEFAULT_POLICY = ServingPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRelease:
    """A release whose model file is open and verified.

    ``model_fd`` stays the caller's, who may close it once `Runtime.serve` returns. ``warm_up`` are
    the inputs that a fresh worker runs before its first caller; none means zeros.
    """

    model: str
    version: str
    digest: str
    interface: Interface
    variant: Variant
    model_fd: int
    memory_limit_bytes: int
    warm_up: tuple[Tensor, ...] = ()
    bundle: Bundle = NO_BUNDLE

    @property
    def policy(self) -> ServingPolicy:
        return self.variant.serving or _DEFAULT_POLICY

    @property
    def memory_bytes(self) -> int:
        """What its worker may take at its peak: declared, and allowed by the class."""
        return min(self.variant.peak_memory, self.memory_limit_bytes)

    def declared(self) -> Description:
        """What can be said of the model while no worker holds it."""
        return Description(
            inputs=declared_ports(self.interface.inputs),
            outputs=declared_ports(self.interface.outputs),
            providers=(),
        )
