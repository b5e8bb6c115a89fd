"""A model of one node, y = x: enough to have onnxruntime make up its mind about the processor."""

# onnx.helper.make_model of one Identity over FP32[1], opset 13, IR 7; a test reads it back.
SMALLEST_MODEL = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
