"""A worker with the model loaded, on the first declared provider that comes up."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from mailboat_agent.serving.bundle import NO_BUNDLE, Bundle
from mailboat_agent.serving.declared_ports import declared_ports
from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.process import Description, InferenceFailed, Worker
from mailboat_agent.serving.requirements import usable_providers, worker_options
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import Variant

NOT_BUILT_IN = "this device's onnxruntime was built without it"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loadable:
    """A release's verified files, and what it may take. ``model_fd`` stays its owner's."""

    model_fd: int
    interface: Interface
    variant: Variant
    memory_bytes: int
    bundle: Bundle = NO_BUNDLE

    @property
    def model_interface(self) -> Interface:
        """What the model itself must have; callers see ``interface``."""
        pipeline = self.variant.pipeline
        return self.interface if pipeline is None else pipeline.model_interface


@dataclass(frozen=True, slots=True)
class Loaded:
    worker: Worker
    model: Description  # as onnxruntime has it
    callers: Description  # as requests are held against it
    provider: str
    passed_over: tuple[str, ...]  # why each provider before it was not taken, in words


def load_on_declared_provider(
    release: Loadable,
    launch: Launch,
    *,
    remaining_seconds: Callable[[], float],
    started: Callable[[Worker], None],
    with_check: bool = False,
    makes_way: bool = False,
) -> Loaded:
    """``started`` is told of each worker, which is its to end if this raises.

    What the runtime was not built with is passed over. What it was built with may still not come
    up: no card, no driver. Then the release's next one is taken, in a fresh worker. Either is said.

    Raises:
        WorkerNotStarted, WorkerDied, WorkerHung, InferenceFailed, RuntimeUnsupported
    """
    failed: dict[str, str] = {}  # provider: why it did not come up
    while True:
        worker = Worker.start(release.model_fd, launch=launch, makes_way=makes_way)
        started(worker)
        usable = usable_providers(release.variant, worker.facts)
        provider = usable[len(failed)]
        options = worker_options(release.variant, release.interface, provider, release.memory_bytes)
        bundle = release.bundle.files if with_check else release.bundle.for_serving
        try:
            model = worker.load(options, bundle=bundle, deadline_seconds=remaining_seconds())
        except InferenceFailed as error:
            failed[provider] = error.message
            if error.kind != "provider_failed" or len(failed) == len(usable):
                raise
            _log.warning("%s: %s; the next provider is tried", provider, error.message)
            worker.kill()
            continue
        liked = release.variant.runtime.providers
        passed_over = tuple(
            f"{name}: {failed.get(name, NOT_BUILT_IN)}" for name in liked[: liked.index(provider)]
        )
        return Loaded(worker, model, _callers(release, model), provider, passed_over)


def _callers(release: Loadable, model: Description) -> Description:
    if release.variant.pipeline is None:
        return model
    return Description(
        inputs=declared_ports(release.interface.inputs),
        outputs=declared_ports(release.interface.outputs),
        providers=model.providers,
    )
