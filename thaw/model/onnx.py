"""onnx: write a package as an ONNX file, and predict with such a file.

    model.onnx             pixels (n, size, size, channels) of uint8 ->
                           probabilities (n, classes), features (n, d)
    model.int8.onnx        the same, its convolutions and matrix products in 8 bits
    reference.py           from picture files to probabilities, without torch
    pixels.py              decoding, which reference.py imports
    unlike.safetensors     features of training pictures

Normalisation, views, temperature and softmax are in the graph. The metadata of the file are the
keys of the package's meta.json (classes, shape, operating and so on), each value as JSON.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thaw.data import pixels as pixels_module
from thaw.data.pictures import UNREADABLE, VIEWS, view
from thaw.errors import InputError
from thaw.learning import checkpoint
from thaw.learning.backbones import Classifier
from thaw.learning.folding import fold_batchnorm
from thaw.model import package, unlike
from thaw.model.model import BATCH, Answers, Model, Pixels
from thaw.model.package import Package

FLOAT, INT8, REFERENCE, PIXELS = "model.onnx", "model.int8.onnx", "reference.py", "pixels.py"
TO_USE, TO_WRITE = ("onnxruntime",), ("onnx", "onnxscript", "onnxruntime")
IN_ONE_FILE = 1_900_000_000  # bytes of weights; protobuf's limit is 2 GB
QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "Clip", "Relu"]


def check_installed(needed: Sequence[str] = TO_WRITE) -> None:
    """Raise if a package that exports need is not installed."""
    if lacking := [name for name in needed if find_spec(name) is None]:
        raise InputError(
            f"exported models need {', '.join(lacking)}, which is not installed: install thaw-vision[export]"
        )


class Graph(nn.Module):
    """A classifier from raw pixels to probabilities: normalisation, views, temperature, softmax."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: Classifier, about: Package) -> None:
        super().__init__()
        self.model = model
        self.views = VIEWS[about.views]
        self.temperature = about.temperature
        mean, std = (torch.tensor(values) * 255 for values in (about.preprocessing.mean, about.preprocessing.std))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """From pixels (n, size, size, channels) to probabilities (n, classes) and features (n, d).

        The features are those of the first view, the picture itself.
        """
        pictures = ((pixels.float() - self.mean) * self.scale).permute(0, 3, 1, 2)
        features = self.model.backbone(torch.cat([view(pictures, number) for number in range(self.views)]))
        features = features.unflatten(0, (self.views, -1))
        logits = self.model.head(features).mean(0)
        return (logits / self.temperature).softmax(1), features[0]


def write(folder: Path, target: Path) -> Path:
    """Write a package's network as ONNX, with the files to use it; returns the ONNX file."""
    about = package.read(folder)
    model, meta = checkpoint.load(folder)
    if not meta["folded"]:
        fold_batchnorm(model, about.shape.blank())
    graph = Graph(model, about).eval()
    file = target / FLOAT
    write_graph(graph, about, file)
    source = (Path(__file__).parent / REFERENCE).read_text(encoding="utf-8")
    (target / REFERENCE).write_text(source.replace("from thaw.data.pixels", "from pixels"), encoding="utf-8")
    shutil.copyfile(pixels_module.__file__, target / PIXELS)
    if (folder / unlike.FILE).is_file():
        shutil.copyfile(folder / unlike.FILE, target / unlike.FILE)
    return file


def write_graph(graph: Graph, about: Package, file: Path) -> None:
    """Write a network and its metadata as an ONNX file."""
    shape = about.shape
    example = torch.zeros(2, shape.size, shape.size, shape.channels, dtype=torch.uint8)
    # With gradients on, EfficientNet-Lite0 pads its input. With gradients off it pads its kernels,
    # and the exporter drops that padding.
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["pixels"],
            output_names=["probabilities", "features"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("pictures")}},
        )
    assert program is not None
    program.model.metadata_props.clear()
    program.model.metadata_props.update(metadata(about))
    weights = sum(value.nbytes for value in graph.state_dict().values())
    program.save(file, external_data=weights > IN_ONE_FILE)


def metadata(about: Package) -> dict[str, str]:
    """The metadata of an ONNX file: the package's meta.json and identity, each value as JSON."""
    return {name: json.dumps(value) for name, value in (about.meta | {"identity": about.identity}).items()}


class Batches:
    """Batches of pixels in the interface of onnxruntime's CalibrationDataReader."""

    def __init__(self, batches: Iterable[Pixels]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, Pixels] | None:
        """The next batch, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"pixels": batch}


def write_int8(file: Path, target: Path, batches: Iterable[Pixels]) -> None:
    """Write an exported network in 8 bits, with activation ranges measured on `batches`.

    Weights get 7 bits, because 8 overflow on processors without VNNI. The file does not say
    `unlike`: its features lie farther from those of the training than the threshold allows for.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if (size := sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))) > IN_ONE_FILE:
        raise InputError(f"this network has {size / 1e9:.1f} GB, more than onnxruntime quantises; leave out --int8")
    CalibrationDataReader.register(Batches)
    prepared = target.with_suffix(".prepared")
    try:
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            Batches(batches),
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        prepared.unlink(missing_ok=True)
    quantised = onnx.load(target)
    properties = {entry.key: entry.value for entry in onnx.load(file).metadata_props} | {"unlike": "null"}
    onnx.helper.set_model_props(quantised, properties)  # drops what the quantisation added
    onnx.save(quantised, target)


class Exported:
    """An exported network in onnxruntime, as a predictor."""

    def __init__(self, file: Path) -> None:
        check_installed(TO_USE)
        from thaw.model import reference

        if not file.is_file():
            raise InputError(f"there is no file {file}; `thaw export` writes one")
        try:
            self.network = reference.Exported(file)
            about = dict(self.network.about)
            self.about = Package.of(about, about.pop("identity"))
        except InputError:
            raise
        except Exception as error:  # onnxruntime raises another one for each kind of damage
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise InputError(f"{file} is not a network that `thaw export` wrote, or is damaged ({reason})") from None

    def __call__(self, pixels: Pixels) -> Answers:
        return self._in_batches(self.network.answers, pixels)

    def of_files(self, paths: Sequence[Path]) -> Answers:
        """Predict picture files, which the reference decodes."""
        try:
            return self._in_batches(self.network, paths)
        except UNREADABLE as error:
            raise InputError(f"one of {', '.join(map(str, paths))} cannot be read ({error})") from None

    def _in_batches(self, predict: Callable[[Any], tuple[Any, Any]], pictures: Any) -> Answers:
        """Predict in small batches: all views go through the graph at once and need memory."""
        size = max(1, BATCH // VIEWS[self.about.views])
        parts = [predict(pictures[start : start + size]) for start in range(0, len(pictures), size)]
        probabilities, features = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Answers(probabilities.astype(np.float64), features)


def load(file: Path, device: str = "auto", workers: int = 2, views: str | None = None) -> Model:
    """Load an exported file, which runs on the CPU and with the views it was exported with."""
    exported = Exported(file)
    if device not in ("auto", "cpu"):
        raise InputError(f"the device is '{device}'; an exported model runs on the cpu: use its package for others")
    if views not in (None, exported.about.views):
        raise InputError(f"views is '{views}', and {file} has those of {exported.about.views}: use its package")
    neighbours = None if exported.about.far is None else unlike.load(file.parent)
    return Model(exported.about, exported, neighbours, workers)
