"""A model version's files, through the tracking server's artifact proxy, as a source."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote

from mailboat_controller.byte_stream import OpenAt
from mailboat_controller.mlflow.flavour import MLMODEL, MLMODEL_BYTES_MAX, Logged, read_mlmodel
from mailboat_controller.mlflow.registry import MlflowRegistry, ModelVersion
from mailboat_controller.sources.source import RemoteFile, SourceRefused, checked


class ModelTooLarge(SourceRefused):
    """Over the mapping's bound, so nothing of it is fetched."""

    code = "E-MLFLOW-TOO-LARGE"


class MlflowSource:
    def __init__(self, registry: MlflowRegistry, version: ModelVersion) -> None:
        self._registry = registry
        self._version = version
        self._root = ""

    def logged(self, bytes_max: int) -> tuple[Logged, RemoteFile]:
        """What was logged, and the file with the graph.

        Raises:
            FlavourRefused: it is no ONNX model. SourceRefused: a name, a size.
        """
        self._root = self._registry.artifact_root(self._version)
        offered = {file.name: file for file in self.files()}
        if MLMODEL not in offered:
            raise SourceRefused(
                f"{self._where} has no file {MLMODEL}.",
                next_step="log it with mlflow.onnx.log_model: docs/mlflow.md.",
            )
        if offered[MLMODEL].length > MLMODEL_BYTES_MAX:
            raise SourceRefused(
                f"{MLMODEL} of {self._where} has {offered[MLMODEL].length} bytes.",
                next_step="log the model again.",
            )
        answer = self._registry.stream.get(
            self._url(MLMODEL),
            self._registry.headers(),
            kind=MLMODEL,
            bytes_max=MLMODEL_BYTES_MAX,
        )
        if answer.status != 200:
            raise SourceRefused(
                f"{MLMODEL} of {self._where} is answered with {answer.status}.",
                next_step="look at the tracking server's artifact store.",
            )
        logged = read_mlmodel(answer.content, self._where)
        folder, _, name = logged.data.rpartition("/")
        beside = offered if not folder else {file.name: file for file in self._listed(folder)}
        graph = beside.get(logged.data)
        if graph is None or not name:
            raise SourceRefused(
                f"{self._where} has no file {logged.data[:80]!r}, which its {MLMODEL} names.",
                next_step="log the model again with mlflow.onnx.log_model.",
            )
        if graph.length > bytes_max:
            raise ModelTooLarge(
                f"The model of {self._where} has {graph.length} bytes, over the mapping's "
                f"bytes_max of {bytes_max}.",
                next_step="quantise it, or raise bytes_max.",
            )
        return logged, graph

    def files(self) -> Sequence[RemoteFile]:
        """Those at the top."""
        return self._listed("")

    def open_at(self, file: RemoteFile) -> OpenAt:
        url = self._url(file.name)

        @contextmanager
        def opened(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
            headers = self._registry.headers()
            with self._registry.stream.open_at(url, headers, offset) as found:
                yield found

        return opened

    def reference(self, tree_digest: str) -> str:
        return f"{self.address}@sha256:{tree_digest}"

    @property
    def address(self) -> str:
        """Which model version, without what it holds."""
        name = quote(self._version.name, safe="")[:256]
        return f"mlflow://{self._registry.host}/{name}/{self._version.version}"

    @property
    def _where(self) -> str:
        return f"{self._version.name} version {self._version.version}"

    def _url(self, name: str) -> str:
        return self._registry.artifact_url(f"{self._root}/{name}")

    def _listed(self, folder: str) -> tuple[RemoteFile, ...]:
        below = f"{folder}/" if folder else ""
        listed = self._registry.listed(f"{self._root}/{folder}".rstrip("/"))
        return checked(
            [
                RemoteFile(
                    f"{below}{each.path}",
                    each.file_size,
                    f"{self._root}:{self._version.version}:{each.file_size}",
                )
                for each in listed
                if not each.is_dir
            ],
            self._where,
        )
