"""Laws of backbones, over every classifier of torchvision that is small enough to build in a moment."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from thaw.backbones import blocks, check_size, create, names, preprocessing_of
from thaw.errors import InputError
from thaw.folding import fold_batchnorm

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


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_head_is_replaced_and_every_parameter_is_in_exactly_one_block(name: str) -> None:
    model = create(name, "random", 3).eval()
    size = preprocessing_of(name, "DEFAULT").size
    pictures = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert model.backbone(pictures).shape == (2, model.head.in_features)
        assert model(pictures).shape == (2, 3)
    found = blocks(model.backbone)
    in_blocks = [id(parameter) for block in found for parameter in block.parameters]
    assert len(in_blocks) == len(set(in_blocks))
    assert set(in_blocks) == {id(parameter) for parameter in model.backbone.parameters()}
    assert len(found) >= 7
    assert len({block.name for block in found}) == len(found)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "densenet121", "googlenet", "shufflenet_v2_x0_5"])
def test_folding_batchnorm_changes_no_output(name: str) -> None:
    model = create(name, "random", 3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    pictures = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        before = model(pictures)
        folded = fold_batchnorm(model, pictures[:1])(pictures)
    torch.testing.assert_close(folded, before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def test_folding_leaves_no_batchnorm_that_follows_a_convolution() -> None:
    model = fold_batchnorm(create("efficientnet_lite0", "random", 2), torch.zeros(1, 3, 64, 64))
    assert not [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_residual_blocks_are_never_cut_in_two() -> None:
    found = blocks(create("resnet18", "random", 2).backbone)
    assert [block.name for block in found] == ["conv1", *(f"layer{n}.{k}" for n in (1, 2, 3, 4) for k in (0, 1))]
    vit = blocks(create("vit_b_32", "random", 2).backbone)
    assert [block.name.rsplit(".", 1)[-1] for block in vit] == [
        "conv_proj",
        *(f"encoder_layer_{number}" for number in range(12)),
    ]


@pytest.mark.parametrize(("photograph", "category"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_efficientnet_lite0_names_the_sample_photographs(photograph: str, category: str) -> None:
    from PIL import Image
    from sklearn.datasets import load_sample_image

    weights = get_model_weights("efficientnet_lite0")["DEFAULT"]
    model = get_model("efficientnet_lite0", weights="DEFAULT").eval()
    picture = weights.transforms()(Image.fromarray(load_sample_image(photograph)))
    with torch.no_grad():
        best = int(model(picture[None]).argmax())
    assert weights.meta["categories"][best] == category


def test_efficientnet_lite0_is_one_more_name_in_torchvisions_registry() -> None:
    assert {"efficientnet_lite0", "resnet50", "vit_b_16"} <= set(names())
    assert preprocessing_of("efficientnet_lite0", "IMAGENET1K_V1").size == 224


def test_unknown_backbone_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown backbone 'resnet5'.*resnet50"):
        create("resnet5", "random", 2)


def test_unknown_weights_are_answered_with_what_is_allowed() -> None:
    with pytest.raises(InputError, match=r"unknown weights 'IMAGENET'.*random, IMAGENET1K_V1, IMAGENET1K_V2"):
        create("resnet50", "IMAGENET", 2)


def test_weights_from_a_file_are_loaded(tmp_path: Path) -> None:
    source = get_model("resnet18")
    torch.save(source.state_dict(), tmp_path / "mine.pth")
    loaded = create("resnet18", str(tmp_path / "mine.pth"), 2)
    assert torch.equal(loaded.backbone.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_weights_of_another_architecture_are_shown_as_a_difference(tmp_path: Path) -> None:
    torch.save(get_model("resnet34").state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError) as caught:
        create("resnet18", str(tmp_path / "other.pth"), 2)
    assert "does not hold weights of resnet18" in str(caught.value)
    assert "+ layer1.2.bn1.bias (64,) is not part of it" in str(caught.value)


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"noise.pth cannot be read as weights"):
        create("resnet18", str(tmp_path / "noise.pth"), 2)


def test_a_size_that_the_backbone_cannot_take_is_refused() -> None:
    check_size("vit_b_32", 224)
    check_size("resnet18", 100)
    check_size("regnet_y_400mf", 64)
    with pytest.raises(InputError, match=r"vit_b_32 cannot take pictures of 160 x 160.*set prepare.size to 224"):
        check_size("vit_b_32", 160)
