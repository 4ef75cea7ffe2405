"""Laws of backbones: the source of weights, and what is refused. See also test_families.py."""

import re
from pathlib import Path

import pytest
import torch
from families import VIT
from safetensors.torch import save_file
from torchvision.models import get_model, get_model_weights

from thaw.errors import InputError
from thaw.learning import backbones
from thaw.learning.backbones import blocks, create, names, preprocessing_of
from thaw.learning.folding import fold_batchnorm


def test_folding_leaves_no_batchnorm_that_follows_a_convolution() -> None:
    model = fold_batchnorm(create("efficientnet_lite0", "random", 2), torch.zeros(1, 3, 64, 64))
    assert not [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_residual_blocks_are_never_cut_in_two() -> None:
    result = blocks(create("resnet18", "random", 2).backbone)
    assert [block.name for block in result] == ["conv1", *(f"layer{n}.{k}" for n in (1, 2, 3, 4) for k in (0, 1))]
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


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3", "mnasnet0_5", "densenet121", VIT])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_as_torchvision_publishes_them_are_loaded(tmp_path: Path, name: str, suffix: str) -> None:
    """Weights with auxiliary heads, with outdated names, and without BatchNorm's batch counts."""
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    source = get_model(name, **more).state_dict()
    old = {"norm1.": "norm.1.", "norm2.": "norm.2.", "conv1.": "conv.1.", "conv2.": "conv.2."}
    state = {}
    for key, value in source.items():
        if "denselayer" in key:
            key = re.sub(r"(norm|conv)([12])\.", lambda match: old[match[0]], key)
        key = key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")
        if not key.endswith("num_batches_tracked"):
            state[key] = value
    file = tmp_path / f"mine{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    loaded = create(name, str(file), 2).backbone.state_dict()
    assert all(torch.equal(source[key], value) for key, value in loaded.items())


def test_a_classifier_without_a_head_of_1000_classes_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU())
    with pytest.raises(InputError, match="backbone 'mine' has no head that thaw can replace"):
        backbones._cut_head(model, "mine")


def test_weights_of_another_architecture_are_shown_as_a_difference(tmp_path: Path) -> None:
    torch.save(get_model("resnet34").state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError) as caught:
        create("resnet18", str(tmp_path / "other.pth"), 2)
    sentence = str(caught.value).splitlines()[0]
    assert "does not hold weights of resnet18: 96 entries differ; allowed is a state dict with the names" in sentence
    assert "+ layer1.2.bn1.bias (64,) is not part of it" in str(caught.value)


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"noise.pth cannot be read as weights"):
        create("resnet18", str(tmp_path / "noise.pth"), 2)
