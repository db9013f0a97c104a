"""ONNX files in fewer bits, by the tools of onnxruntime."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from .compare import INPUT

# largest number of float16; the tool would cut off numbers from 10,000
MAX_HALF = 65504.0
# with weights; other operators take little time and lose more
QUANTISED = ["Conv", "Gemm", "MatMul"]


def to_float16(model: ModelProto) -> ModelProto:
    """Return a model with weights and arithmetic in float16, and inputs and outputs as before.

    Operators whose float16 other runtimes lack compute in float32, such as Resize and TopK.
    """
    return convert_float_to_float16(
        model,
        max_finite_val=MAX_HALF,
        keep_io_types=True,
        op_block_list=DEFAULT_OP_BLOCK_LIST,
    )


class _Images(CalibrationDataReader):
    """Images for calibration, one by one."""

    def __init__(self, batches: Sequence[np.ndarray]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


def to_int8(model: ModelProto, images: Sequence[np.ndarray]) -> ModelProto:
    """Return a model with layers in 8 bits, by static post-training quantisation.

    Weights are quantised for each output channel to 7 of 8 bits, with which the sums of all
    processors fit into 16 bits; activations to the range that they have on the images. Layers are
    pairs of operators QuantizeLinear and DequantizeLinear around those of float32.

    Args:
        model: model in float32.
        images: batches (1, 3, H, W), uint8, for calibration.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, written = (str(Path(folder, f"{i}.onnx")) for i in range(3))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            written,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(written)
