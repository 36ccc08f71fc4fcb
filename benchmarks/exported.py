"""A network's pass in ONNX Runtime, to be timed beside PyTorch's."""

from __future__ import annotations

import logging
import warnings

import torch
from torch import Tensor, nn

from benchmarks.timing import Step


def session(model: nn.Module, batch: Tensor, threads: int) -> Step:
    """Export a network in evaluation mode and return its pass in ONNX Runtime, whose outputs were compared."""
    import onnxruntime

    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (batch,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait by spinning would take the cores from the network whose turn it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    file = program.model_proto.SerializeToString()
    runner = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {runner.get_inputs()[0].name: batch.numpy()}
    found = torch.from_numpy(runner.run(None, feed)[0])
    with torch.no_grad():
        torch.testing.assert_close(found, model(batch), rtol=1e-3, atol=1e-4)
    return lambda: runner.run(None, feed)
