"""MLServer's side: ten lines around onnxruntime, since it brings no runtime of its own for ONNX.

Runs in the peer's own environment, where nothing of ours is installed.
"""

import numpy as np
import onnxruntime
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import (  # type: ignore[import-not-found]
    InferenceRequest,
    InferenceResponse,
)


class OnnxModel(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {
            each.name: NumpyCodec.decode_input(each).astype(np.float32) for each in payload.inputs
        }
        names = [each.name for each in self._session.get_outputs()]
        outputs = self._session.run(names, feeds)
        encoded = [
            NumpyCodec.encode_output(name, each) for name, each in zip(names, outputs, strict=True)
        ]
        return InferenceResponse(model_name=self.name, outputs=encoded)
