"""Predict with an exported network; needs only numpy, Pillow and onnxruntime.

    python reference.py model.onnx cell.png photograph.jpg

thaw checks every export with this file, and writes it beside the network.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from thaw.data.pixels import Geometry, decode


class Exported:
    """An exported network; `about` is its metadata."""

    def __init__(self, file: str | Path) -> None:
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.about = {name: json.loads(value) for name, value in metadata.items()}

    def __call__(self, paths: Sequence[str | Path]) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated probabilities (n, classes) and features (n, d) for picture files."""
        geometry = Geometry(**self.about["shape"])
        return self.answers(np.stack([decode(path, geometry) for path in paths]))

    def answers(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for pixels (n, size, size, channels)."""
        probabilities, features = self.session.run(["probabilities", "features"], {"pixels": pixels})
        return probabilities, features

    def decision(self, probabilities: np.ndarray) -> str:
        """The decision for probabilities (classes,); of two classes, the second from its threshold
        on."""
        threshold = (self.about["operating"] or {}).get("threshold")
        index = probabilities.argmax() if threshold is None else int(probabilities[1] >= threshold)
        return str(self.about["classes"][index])


if __name__ == "__main__":
    network = Exported(sys.argv[1])
    for path in sys.argv[2:]:
        p = network([path])[0][0]
        by_class = dict(zip(network.about["classes"], p.tolist(), strict=True))
        print(json.dumps({"path": path, "decision": network.decision(p), "probabilities": by_class}))
