"""Backbones: every classifier that torchvision registers, without its head, as a list of blocks.

model, preprocessing = create("resnet50", "IMAGENET1K_V1", classes=3)
[block.name for block in blocks(model.backbone)]
"""

import difflib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model_builder, get_model_weights, list_models
from torchvision.models.maxvit import MaxVitBlock
from torchvision.models.mnasnet import MNASNet
from torchvision.models.regnet import AnyStage
from torchvision.models.vision_transformer import Encoder
from torchvision.transforms.functional import InterpolationMode

from thaw.data.pictures import Preprocessing
from thaw.errors import InputError
from thaw.learning import efficientnet_lite0  # noqa: F401  (registers the default backbone)

STEPS = (nn.Conv2d, nn.Linear)
RANDOM = re.compile(r"random(?: (\d+))?")
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
# Names in files that torchvision publishes but no longer writes: DenseNet's and the vision
# transformer's.
LEGACY = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


class Classifier(nn.Module):
    """A backbone that turns pictures into features and a linear head that turns features into
    logits."""

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, pictures: Tensor) -> Tensor:
        """Normalised pictures (n, 3, height, width) to logits (n, classes)."""
        logits: Tensor = self.head(self.backbone(pictures))
        return logits


class Block(NamedTuple):
    """A part of a backbone that is frozen or trained as a whole."""

    name: str
    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...]


def names() -> list[str]:
    """The names of all image classifiers in torchvision's registry."""
    return sorted([*list_models(module=torchvision.models), "efficientnet_lite0"])


def preprocessing_of(name: str, weights: str) -> Preprocessing:
    """The preprocessing of the weights; for a file or random weights, that of the default
    weights."""
    _check_name(name)
    registered = get_model_weights(name)
    entry = registered[weights] if weights in registered.__members__ else registered["DEFAULT"]
    transforms: Any = entry.transforms()
    return Preprocessing(
        transforms.crop_size[0],
        transforms.resize_size[0],
        InterpolationMode(transforms.interpolation).value,
        tuple(transforms.mean),
        tuple(transforms.std),
    )


def create(name: str, weights: str, classes: int, size: int | None = None) -> Classifier:
    """The backbone with `weights` (a name that torchvision registers, a file, or `random`) and a
    new linear head.

    `random` gives the same weights each time; `random 1`, `random 2` and so on give others. A
    vision transformer takes pictures of one size only: that of its registered weights, else
    `size`.
    """
    _check_name(name)
    if classes < 2:
        raise InputError(f"a classifier needs at least 2 classes, but there is {classes}")
    registered = get_model_weights(name)
    if weights in registered.__members__:
        try:
            model = get_model_builder(name)(weights=registered[weights])
        except OSError as error:
            raise InputError(
                f"the weights {weights} of {name} could not be downloaded ({error}); bring the file from another "
                f"machine and set backbone.weights to its path: {registered[weights].url}"
            ) from None
        if name in WITH_AUXILIARY_HEADS:
            model.aux_logits, model.AuxLogits = False, None  # GoogLeNet's builder drops its own
    else:
        arguments: dict[str, Any] = {"image_size": size} if size and name.startswith("vit_") else {}
        if name in WITH_AUXILIARY_HEADS:
            # Registered weights switch `transform_input` on: a network that is rebuilt must
            # compute the same.
            arguments = {"aux_logits": False, "init_weights": False, "transform_input": True}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(drawn[1] or 0) if (drawn := RANDOM.fullmatch(weights)) else 0)
            model = get_model_builder(name)(weights=None, **arguments)
    # its own loader insists on a version number, which safetensors drop
    if isinstance(model, MNASNet):
        model._load_from_state_dict = partial(nn.Module._load_from_state_dict, model)
    backbone, features, old_head = _cut_head(model, name)
    if not RANDOM.fullmatch(weights) and weights not in registered.__members__:
        _load(backbone, name, weights, old_head)
    head = nn.Linear(features, classes)
    nn.init.zeros_(head.bias)
    nn.init.normal_(head.weight, std=features**-0.5)
    return Classifier(backbone, head)


def old_head(name: str, weights: str) -> tuple[str, nn.Module] | None:
    """Path and layer of the pretrained head; None for weights that torchvision does not
    register."""
    registered = get_model_weights(name)
    if weights not in registered.__members__:
        return None
    return _head_of(get_model_builder(name)(weights=registered[weights]), name)


def check_size(name: str, weights: str, size: int) -> None:
    """Raise unless the backbone takes pictures of `size`. Runs on the meta device, so it computes
    shapes only."""
    expected = preprocessing_of(name, weights).size
    trained = expected if weights in get_model_weights(name).__members__ else size
    try:
        with torch.device("meta"):
            create(name, "random", 2, trained).eval()(torch.empty(1, 3, size, size))
    except NotImplementedError:
        return  # RegNet cannot be built without numbers; it takes any size
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"{name} cannot take pictures of {size} x {size} ({reason}); set prepare.resolution to {expected}, "
            "the size its weights were trained for"
        ) from None


def blocks(backbone: nn.Module) -> list[Block]:
    """The backbone's blocks from input to output; each parameter is in exactly one of them.

    A block is a residual block, a transformer layer, a dense block, or a convolution with the
    layers up to the next one. A norm or parameter outside of these belongs to the block before it,
    at the start to the first block.
    """
    parts: list[tuple[str, list[nn.Module], list[nn.Parameter]]] = []
    waiting: list[nn.Parameter] = []
    for name, part in _parts("", backbone):
        if isinstance(part, nn.Parameter):
            (parts[-1][2] if parts else waiting).append(part)
        elif parts and not any(isinstance(module, STEPS) for module in part.modules()):
            parts[-1][1].append(part)
        else:
            parts.append((name, [part], waiting))
            waiting = []
    return [
        Block(name, tuple(modules), (*loose, *(p for module in modules for p in module.parameters())))
        for name, modules, loose in parts
    ]


def _parts(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Modules and parameters with their names; containers are walked into, other modules stay
    whole."""
    for key, parameter in module.named_parameters(recurse=False):
        yield f"{name}.{key}".lstrip("."), parameter
    for key, child in module.named_children():
        path = f"{name}.{key}".lstrip(".")
        if _is_container(child):
            yield from _parts(path, child)
        else:
            yield path, child


def _is_container(module: nn.Module) -> bool:
    if isinstance(module, (AnyStage, Encoder, MaxVitBlock)) or type(module) is nn.ModuleList:
        return True
    children = list(module.children())
    steps = sum(isinstance(child, STEPS) for child in children)
    return type(module) is nn.Sequential and (steps > 1 or any(list(child.children()) for child in children))


def _check_name(name: str) -> None:
    if name not in names():
        near = difflib.get_close_matches(name, names(), 3)
        hint = f"the nearest are {', '.join(near)}" if near else "any classifier of torchvision is allowed"
        raise InputError(f"unknown backbone '{name}'; {hint} (set backbone.name)")


def _cut_head(model: nn.Module, name: str) -> tuple[nn.Module, int, str]:
    """Replace the classification layer with the identity; returns the model, its number of
    features, the path."""
    path, layer = _head_of(model, name)
    model.set_submodule(path, nn.Identity())
    return model, layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels, path


def _head_of(model: nn.Module, name: str) -> tuple[str, nn.Linear | nn.Conv2d]:
    heads = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, STEPS)]
    if not heads or getattr(heads[-1][1], "out_features", getattr(heads[-1][1], "out_channels", 0)) != 1000:
        raise InputError(f"backbone '{name}' has no head that thaw can replace: its last layer is not a 1000-class one")
    return heads[-1]


def _read_weights(name: str, weights: str) -> dict[str, Tensor]:
    path = Path(weights)
    if not path.is_file():
        allowed = ", ".join(["random", *get_model_weights(name).__members__])
        raise InputError(f"unknown weights '{weights}' for {name}; allowed are {allowed}, or a file that exists")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{weights} cannot be read as weights: {str(error).splitlines()[0]}") from None
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{weights} is not a state dict: save it with torch.save(model.state_dict(), path)")
    return state


def _load(model: nn.Module, name: str, weights: str, head: str) -> None:
    """Load a file by parameter names. Heads are ignored; any other mismatch is an error that shows
    the difference."""
    expected, state = model.state_dict(), {}
    for key, value in _read_weights(name, weights).items():
        for pattern, replacement in LEGACY:
            key = pattern.sub(replacement, key)
        if not key.startswith((f"{head}.", "aux1.", "aux2.", "AuxLogits.")):
            state[key] = value
    # Files from before 2018 lack num_batches_tracked, which nothing needs.
    lines = [
        f"- {key} {tuple(value.shape)} is missing"
        for key, value in expected.items()
        if key not in state and not key.endswith("num_batches_tracked")
    ]
    lines += [f"+ {key} {tuple(state[key].shape)} is not part of it" for key in sorted(state.keys() - expected.keys())]
    lines += [
        f"! {key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if lines:
        sentence = (
            f"{weights} does not hold weights of {name}: {len(lines)} entries differ; allowed is a state dict with the "
            f"names and shapes of torchvision's {name}, whatever its head"
        )
        shown = lines[:8] + ([f"... and {len(lines) - 8} more"] if len(lines) > 8 else [])
        raise InputError("\n  ".join([sentence, *shown]))
    model.load_state_dict(state, strict=False)
