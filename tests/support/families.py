"""One small member of each family of torchvision's classifiers."""

import pytest

ONE_OF_EACH_FAMILY = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_lite0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
    "wide_resnet50_2",
]
VIT = pytest.param("vit_b_32", marks=pytest.mark.slow)  # drawing its weights takes a second
SMALLEST = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224}


def size_for(name: str) -> int:
    """The smallest pictures that a backbone takes; vision transformers get two patches a side."""
    return 2 * int(name.rsplit("_", 1)[1]) if name.startswith("vit_") else SMALLEST.get(name, 32)
