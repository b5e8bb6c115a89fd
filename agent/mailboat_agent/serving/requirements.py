"""What a release requires of this device's runtime, turned into the options of a worker."""

from packaging.specifiers import SpecifierSet

from mailboat_agent.serving.declared_ports import declared_ports
from mailboat_agent.serving.worker_values import PipelineOptions, RuntimeFacts, WorkerOptions
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import Variant
from mailboat_schemas.errors import ReleaseRejected

# RLIMIT_DATA counts pages that are reserved and never touched (a thread's stack is 8 MiB of them,
# onnxruntime's import some 60 MiB), the verdict is on resident memory. So the hard limit lies
# above the allowed peak: it is there to stop a runaway, and the measurement to judge.
DATA_HEADROOM_BYTES = 96 << 20
DATA_PER_THREAD_BYTES = 12 << 20


class RuntimeUnsupported(ReleaseRejected):
    """This device's onnxruntime is of another version, or lacks the provider."""

    code = "E-RUNTIME-UNSUPPORTED"


def hard_limit_bytes(memory_bytes: int, threads: int) -> int:
    """The RLIMIT_DATA under which a worker may reach ``memory_bytes`` of resident memory."""
    return memory_bytes + DATA_HEADROOM_BYTES + threads * DATA_PER_THREAD_BYTES


def usable_providers(variant: Variant, facts: RuntimeFacts) -> tuple[str, ...]:
    """Those of the release's list that this device's runtime has, in the release's order.

    Raises:
        RuntimeUnsupported: there is none, or the version is out of the release's range.
    """
    runtime = variant.runtime
    if not SpecifierSet(runtime.version).contains(facts.version, prereleases=True):
        raise RuntimeUnsupported(
            f"The release needs onnxruntime {runtime.version}, this device has {facts.version}.",
            next_step="release a variant for this version, or update the device's runtime.",
        )
    usable = tuple(name for name in runtime.providers if name in facts.providers)
    if not usable:
        raise RuntimeUnsupported(
            f"The release needs one of {', '.join(runtime.providers)}; this device has "
            f"{', '.join(facts.providers)}.",
            next_step="add a provider that the hardware class has to the variant.",
        )
    return usable


def worker_options(
    variant: Variant, interface: Interface, provider: str, memory_bytes: int
) -> WorkerOptions:
    """``interface`` is what callers see of the release."""
    pipeline = variant.pipeline
    return WorkerOptions(
        providers=(provider,),
        threads=variant.runtime.threads,
        memory_limit_bytes=hard_limit_bytes(memory_bytes, variant.runtime.threads),
        model_sha256=variant.model_file.sha256,
        pipeline=None
        if pipeline is None
        else PipelineOptions(
            pipeline.preprocess, pipeline.postprocess, declared_ports(interface.outputs)
        ),
    )
