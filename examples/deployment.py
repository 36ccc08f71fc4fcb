"""What the two deployment examples share: a training step with a teacher, ONNX Runtime, INT8, a row of the table."""

import time
from types import SimpleNamespace

import onnxruntime
import torch
import torch.nn.functional as F
from onnxruntime.quantization import quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


def train(net, x, y, *, epochs, rate, teacher=None, reg=None):
    """Train in place on the labels; with a teacher on its outputs, too, softened by 4."""
    optimizer = torch.optim.SGD(net.train().parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64)[:-1]:
            logits = net(x[batch])
            loss = F.cross_entropy(logits, y[batch]) + (reg.penalty(logits) if reg else 0)
            if teacher is not None:
                with torch.no_grad():
                    soft = (teacher(x[batch]) / 4).softmax(1)
                loss = 0.3 * loss + 0.7 * 16 * F.kl_div((logits / 4).log_softmax(1), soft, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if reg:
                reg.update(optimizer)
    net.eval()


def export(net, path, x):
    """Write the network as ONNX, for batches of any size; of one image alone, the size 1 would be taken as fixed."""
    torch.onnx.export(net, (x[:2],), path, dynamo=True, verbose=False, input_names=["x"], dynamic_shapes=[{0: "batch"}])


def quantize(path, to, x):
    """Write an ONNX network in INT8; the images say how large its activations become."""
    quant_pre_process(path, to)
    batches = ({"x": batch.numpy()} for batch in x.split(32))
    quantize_static(to, to, SimpleNamespace(get_next=lambda: next(batches, None)), per_channel=True)


def runtime(path):
    """Return a function of images that ONNX Runtime computes on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    run = onnxruntime.InferenceSession(path, options).run
    return lambda images: torch.from_numpy(run(None, {"x": images.numpy()})[0])


def row(name, run, size, x, y):
    """Print the kilobytes, the milliseconds for one image (median of 30) and the accuracy of a network."""
    with torch.inference_mode():
        accuracy, times = (run(x).argmax(1) == y).float().mean(), []
        for _ in range(35):
            start = time.perf_counter()
            run(x[:1])
            times.append(time.perf_counter() - start)
    print(f"| {name} | {size / 1000:,.0f} | {1000 * sorted(times[5:])[15]:.2f} | {accuracy:.1%} |", flush=True)
