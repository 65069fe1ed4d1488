"""Runs a finished model on images with numpy and safetensors only: without torch, Pillow or gradq.

The service makes its predictions with this module, and the same file is stored with each model as `predict.py`:

    python predict.py digit.png more.png          # next to model.safetensors and model.json
    python predict.py --json --invert drawing.png # black on white, for a model trained on white on black

    import predict
    model = predict.load("folder")
    model.predict(images)                         # [{"label": 7, "class": "7", "probabilities": [...]}, ...]
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]

CHUNK_FLOATS = 1 << 20  # 4 MB: limit of what is held for the images that are computed together; more is slower, too
BLOCK = (
    1 << 16
)  # numbers of which a function of single numbers is computed at once: its temporary arrays have up to 6 MB
BAND_PIXELS = 1 << 20  # of a picture that become floats at once: its channels and their sums have 20 bytes per pixel
MAX_PIXELS = 1 << 25  # a PNG of 5792 x 5792
SHOWN_CLASSES = 3
ROUNDING = 1e-3  # numbers may exceed white by this much, after resizing and colour conversions; they are clipped to it
GREY_LEVELS = (255.0, 65_535.0)  # whites of stored pictures, whose pixels are whole numbers
NO_SPREAD = 1e-8  # models of earlier versions have this deviation for a channel that was constant in training


class Refused(ValueError):
    """The input cannot be read or does not fit the model; the message gives the reason."""


# --- the layers: x (N,...) float32 -> float32, as in PyTorch's evaluation mode ----------------------------------------

# N batch size · I features in · O features or channels out · C channels in · H,W image · K kernel (odd, padding K//2)


def linear(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """out (N,O) = x (N,I) @ weight.T (I,O) + bias (O)"""
    out: Array = x @ weights["weight"].T
    out += weights["bias"]
    return out


def conv2d(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """out (N,O,H,W) = the K x K patches of x, each times all weights (O,C,K,K), + bias (O)"""
    weight = weights["weight"]
    edge = weight.shape[2] // 2
    out = multiplied(weight, windows(x, weight.shape[2], edge))
    out += weights["bias"][:, None, None]
    return out


def windows(x: Array, kernel: int, edge: int, stride: int = 1, outside: float = 0) -> Array:
    """The K x K patches (N,C,h,w,K,K) of x (N,C,H,W) with `edge` more rows and columns on each side: a view"""
    if edge:
        x = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge)), constant_values=outside)
    return sliding_window_view(x, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]


def multiplied(weight: Array, patches: Array) -> Array:
    """out (N,O,h,w): the patches (N,C,h,w,K,K) of a band of rows become the columns of one matrix product (im2col)"""
    matrix = weight.reshape(len(weight), -1)  # (O,CKK)
    n, _, height, width = patches.shape[:4]
    band = rows_at_once(n, matrix.shape, width)

    def product(some: Array) -> Array:  # (N,C,rows,w,K,K) -> (N,O,rows,w)
        columns = some.transpose(0, 1, 4, 5, 2, 3).reshape(n, matrix.shape[1], -1)  # (N,CKK,rows*w)
        return (matrix @ columns).reshape(n, len(matrix), -1, width)

    if band >= height:
        return product(patches)
    out = np.empty((n, len(matrix), height, width), np.float32)
    for top in range(0, height, band):
        out[:, :, top : top + band] = product(patches[:, :, top : top + band])
    return out


def rows_at_once(n: int, matrix: tuple[int, ...], width: int) -> int:
    """How many rows of n images a convolution computes at once: with their columns and products in CHUNK_FLOATS."""
    return max(1, CHUNK_FLOATS // (n * sum(matrix) * width))


def batch_norm(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """out = (x - running mean) / sqrt(running variance + eps) * weight + bias, per feature or channel"""
    scale = weights["weight"] / np.sqrt(weights["running_var"] + np.float32(arguments.get("eps", 1e-5)))
    shift = weights["bias"] - weights["running_mean"] * scale
    shape = (-1, *[1] * (x.ndim - 2))
    out: Array = x * scale.reshape(shape)
    out += shift.reshape(shape)
    return out


def max_pool(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """out (N,C,H//k,W//k): the maximum of each k x k window; rows and columns that do not fill a window are ignored"""
    k = int(arguments["kernel_size"])
    height, width = x.shape[2] // k * k, x.shape[3] // k * k
    return functools.reduce(np.maximum, [x[:, :, i:height:k, j:width:k] for i in range(k) for j in range(k)])


def relu(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    return np.maximum(x, np.float32(0))


def tanh(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    return np.tanh(x)


def in_blocks(function: Callable[[Array], Array]) -> Callable[[dict[str, Any], Weights, Array], Array]:
    """The layer that computes a function of single numbers, BLOCK of them at a time."""

    def computed(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
        out, flat = np.empty(x.shape, np.float32), x.reshape(-1)
        blocks = out.reshape(-1)  # a view
        for first in range(0, flat.size, BLOCK):
            blocks[first : first + BLOCK] = function(flat[first : first + BLOCK])
        return out

    return computed


def logistic(x: Array) -> Array:
    """out = 1 / (1 + exp(-x))"""
    small = np.exp(-np.abs(x))  # at most 1: no overflow
    out: Array = np.where(x >= 0, np.float32(1), small) / (1 + small)
    return out


def gaussian_linear(x: Array) -> Array:
    """out = x Φ(x), where Φ is the cumulative distribution function of N(0, 1), computed with erf"""
    return x * (0.5 * (1 + erf(x * math.sqrt(0.5))))


sigmoid, gelu = in_blocks(logistic), in_blocks(gaussian_linear)


def flatten(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    return x.reshape(len(x), -1)


def unchanged(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """Dropout has no effect in evaluation mode."""
    return x


LAYERS: dict[str, Callable[[dict[str, Any], Weights, Array], Array]] = {
    "Linear": linear,
    "Conv2d": conv2d,
    "BatchNorm1d": batch_norm,
    "BatchNorm2d": batch_norm,
    "MaxPool2d": max_pool,
    "ReLU": relu,
    "Tanh": tanh,
    "Sigmoid": sigmoid,
    "GELU": gelu,
    "Flatten": flatten,
    "Dropout": unchanged,
}


# --- operations of torchvision's models: arguments, weights, inputs (N,...) -> (N,...), as in evaluation mode ---------

# T tokens · D their width. `weights` has the tensors of one layer by their names in it.


def convolution(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """out (N,O,h,w): as conv2d, of any stride and padding; or each channel by itself (weights (C,1,K,K))"""
    weight = weights["weight"]
    patches = windows(x, weight.shape[2], arguments["padding"], arguments["stride"])
    if arguments["depthwise"]:
        out = np.zeros(patches.shape[:4], np.float32)
        for i, j in np.ndindex(weight.shape[2:]):
            out += patches[..., i, j] * weight[:, 0, i, j, None, None]
    else:
        out = multiplied(weight, patches)
    if "bias" in weights:
        out += weights["bias"][:, None, None]
    return out


def pool(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """out (N,C,h,w): the maximum of each window of kernel_size, at steps of `stride`"""
    kernel, stride, edge = (int(arguments[name]) for name in ("kernel_size", "stride", "padding"))
    patches = windows(x, kernel, edge, stride, -np.inf)
    return functools.reduce(np.maximum, [patches[..., i, j] for i in range(kernel) for j in range(kernel)])


def layer_norm(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """out = (x - mean) / sqrt(variance + eps) * weight + bias, over the last axis"""
    centred = x - x.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(arguments["eps"])) * weights["weight"] + weights["bias"]


def attention(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """out (N,T,D): self-attention of `heads` heads (Vaswani et al. 2017, Attention Is All You Need, 3.2)"""
    n, tokens, width = x.shape
    heads = int(arguments["heads"])
    all_three = x @ weights["in_proj_weight"].T + weights["in_proj_bias"]  # (N,T,3D)
    split = all_three.reshape(n, tokens, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    query, key, value = split  # (N,heads,T,D/heads) each
    scores = query @ key.swapaxes(2, 3) * np.float32(1 / math.sqrt(width // heads))  # (N,heads,T,T)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (powers / powers.sum(-1, keepdims=True)) @ value
    joined = mixed.transpose(0, 2, 1, 3).reshape(n, tokens, width)
    return joined @ weights["out_proj.weight"].T + weights["out_proj.bias"]


def hard_logistic(x: Array) -> Array:
    """out = x / 6 + 1/2, from 0 to 1"""
    out: Array = np.clip(x + np.float32(3), 0, 6) / np.float32(6)
    return out


def enlarge(arguments: dict[str, Any], weights: Weights, x: Array) -> Array:
    """out (N,C,height,width): linear interpolation between the nearest pixels"""
    down, across = resampling(x.shape[2], arguments["height"]), resampling(x.shape[3], arguments["width"])
    return down @ x @ across.T


def concatenated(arguments: dict[str, Any], weights: Weights, *parts: Array) -> Array:
    """Parameters are (1,...): they are repeated for each example."""
    n = max(map(len, parts))
    whole = [np.broadcast_to(part, (n, *part.shape[1:])) for part in parts]
    return np.concatenate(whole, axis=arguments["axis"])


OPERATIONS: dict[str, Callable[..., Array]] = {
    "Conv2d": convolution,
    "BatchNorm2d": batch_norm,
    "MaxPool2d": pool,
    "Linear": linear,
    "LayerNorm": layer_norm,
    "MultiheadAttention": attention,
    "ReLU": relu,
    "Sigmoid": sigmoid,
    "GELU": gelu,
    "SiLU": in_blocks(lambda x: x * logistic(x)),
    "Hardsigmoid": in_blocks(hard_logistic),
    "Hardswish": in_blocks(lambda x: x * hard_logistic(x)),
    "Enlarge": enlarge,
    "Flatten": flatten,
    "Mean": lambda arguments, weights, x: x.mean((2, 3), keepdims=arguments["keep"]),
    "Permute": lambda arguments, weights, x: x.transpose(arguments["axes"]),
    "Reshape": lambda arguments, weights, x: x.reshape(len(x), *arguments["shape"]),
    "Repeat": unchanged,  # of a parameter, for each example: `concatenated` does it
    "Select": lambda arguments, weights, x: x[:, arguments["index"]],
    "Concatenate": concatenated,
    "Add": lambda arguments, weights, x, y: x + y,
    "Mul": lambda arguments, weights, x, y: x * y,
    "Parameter": lambda arguments, weights: weights[""],
}


class Operations:
    """The operations of one model in order, from `operations` in model.json. Raises Refused for unknown ones."""

    def __init__(self, steps: list[dict[str, Any]], weights: Weights) -> None:
        if unknown := [step["op"] for step in steps if step["op"] not in OPERATIONS]:
            raise Refused(f"the model has an operation {unknown[0]}, which is not one of {', '.join(OPERATIONS)}")
        self.steps = steps
        self.weights = [_below(step["weights"], weights) for step in steps]
        self.size_bytes = sum(array.nbytes for array in weights.values())
        last_use = {place: number for number, step in enumerate(steps) for place in step["inputs"]}
        self._unused = [[place for place, last in last_use.items() if last == number] for number in range(len(steps))]

    def __call__(self, x: Array) -> Array:
        """x (N,C,H,W), normalized -> logits (N,K)"""
        values = {0: x}
        for number, (step, own) in enumerate(zip(self.steps, self.weights, strict=True)):
            inputs = (values[place] for place in step["inputs"])
            values[number + 1] = OPERATIONS[step["op"]](step["arguments"], own, *inputs)
            for place in self._unused[number]:
                del values[place]
        return values[len(self.steps)]

    def cost(self, shape: tuple[int, ...]) -> Cost:
        """What one example costs, approximately."""
        sizes = [math.prod(shape), *(step["size"] for step in self.steps)]
        held, found = sizes[0], Cost(0, sizes[0], sizes[0])
        for number, (step, own) in enumerate(zip(self.steps, self.weights, strict=True)):
            held += step["size"]
            among_others, alone = _temporary(step, own, sizes[step["inputs"][0]] if step["inputs"] else 0)
            work = step["multiplications"] + NUMBER_COST * step["size"]
            found = found.with_layer(work, held + among_others, held + alone)
            held -= sum(sizes[place] for place in self._unused[number])
        return found


def _temporary(step: dict[str, Any], own: Weights, size_in: int) -> tuple[int, int]:
    """How many numbers an operation holds for one example beside its inputs and its output: of one among others, and
    of one alone. Of images whose sides are unknown, they are taken as equal."""
    arguments, size = step["arguments"], step["size"]
    if step["op"] == "Conv2d":
        out_channels, per_group, kernel, _ = own["weight"].shape
        channels = out_channels if arguments["depthwise"] else per_group
        padded = padded_size((channels, *[math.isqrt(size_in // channels - 1) + 1] * 2), arguments["padding"])
        if arguments["depthwise"]:
            return padded + size, padded + size
        positions = size // out_channels
        columns = column_sizes((out_channels, per_group * kernel**2), positions, math.isqrt(positions - 1) + 1)
        return padded + columns[0], padded + columns[1]
    if step["op"] == "MultiheadAttention":
        width = len(own["out_proj.bias"])
        tokens = size // width
        most = 3 * arguments["heads"] * tokens**2 + 7 * tokens * width
    else:
        most = {"LayerNorm": 2 * size, "MaxPool2d": 2 * size_in + size, "Enlarge": size}.get(step["op"], 0)
    return most, most


def _below(prefix: str | None, weights: Weights) -> Weights:
    """The tensors of the layer `prefix` by their names in it; a tensor of that name itself is at ""."""
    if prefix is None:
        return {}
    own = {name[len(prefix) + 1 :]: array for name, array in weights.items() if name.startswith(prefix + ".")}
    return {"": weights[prefix]} if prefix in weights else own


ERF_END, ERF_STEPS = 4.0, 2048  # beyond 4, erf is 1 to within 1.6e-8


@functools.cache
def _erf_table() -> Array:
    places = range(-round(ERF_END * ERF_STEPS), round(ERF_END * ERF_STEPS) + 2)
    return np.array([math.erf(place / ERF_STEPS) for place in places])


def erf(x: Array) -> Array:
    """The error function in float64, by linear interpolation between values of math.erf at steps h of 1/2048.

    The error is at most h²/8 times the largest second derivative (0.97), 3e-8: below the resolution of float32 at 1.
    """
    table = _erf_table()
    place = (np.clip(x.astype(np.float64), -ERF_END, ERF_END) + ERF_END) * ERF_STEPS
    below = place.astype(np.intp)
    low = table[below]
    return low + (place - below) * (table[below + 1] - low)


def softmax(logits: Array) -> Array:
    """exp(logit) / sum of exp, per row; the row's maximum is subtracted first to avoid overflow"""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


# --- what one example costs -------------------------------------------------------------------------------------------


NUMBER_COST = 50  # multiplications that a number of a layer's output counts as: GELU takes some 7 ns for one


class Cost(NamedTuple):
    """`multiplications` of one example, with NUMBER_COST for each number that a layer computes; and the most numbers
    that are held for it at once, beside its pixels: `floats` if it is one of several, and `floats_alone`, which are
    fewer if a convolution is divided into bands of rows."""

    multiplications: int
    floats: int
    floats_alone: int

    def with_layer(self, multiplications: int, floats: int, floats_alone: int) -> Cost:
        return Cost(
            self.multiplications + multiplications, max(self.floats, floats), max(self.floats_alone, floats_alone)
        )


def padded_size(shape: tuple[int, ...], edge: int) -> int:
    """The numbers of an image (C,H,W) with `edge` more rows and columns on each side; 0 if it is not copied."""
    return shape[0] * (shape[1] + 2 * edge) * (shape[2] + 2 * edge) if edge else 0


def column_sizes(matrix: tuple[int, int], positions: int, width: int) -> tuple[int, int]:
    """The columns of a convolution (O,CKK) at so many positions, in rows of `width`, with the products of a band: of
    one image among others, and of one alone."""
    columns = matrix[1] * positions
    rows = rows_at_once(1, matrix, width)
    return columns, columns if rows * width >= positions else sum(matrix) * rows * width


def _cost(layers: list[dict[str, Any]], weights: list[Weights], shape: tuple[int, ...]) -> Cost:
    """What one example costs: the input and the output of a layer, and what it holds beside them."""
    size = math.prod(shape)
    cost = Cost(0, size, size)
    for layer, own in zip(layers, weights, strict=True):
        multiplications, beside, alone = 0, 0, 0
        if layer["type"] == "Conv2d":
            out_channels, channels, kernel, _ = own["weight"].shape
            positions = shape[1] * shape[2]
            multiplications = own["weight"].size * positions
            padded = padded_size(shape, kernel // 2)
            columns = column_sizes((out_channels, channels * kernel**2), positions, shape[2])
            beside, alone = padded + columns[0], padded + columns[1]
            shape = (out_channels, *shape[1:])
        elif layer["type"] == "MaxPool2d":
            k = layer["arguments"]["kernel_size"]
            shape = (shape[0], shape[1] // k, shape[2] // k)
            beside = alone = math.prod(shape)
        elif layer["type"] == "Linear":
            multiplications = own["weight"].size
            shape = (len(own["weight"]),)
        both, size = size + math.prod(shape), math.prod(shape)
        cost = cost.with_layer(multiplications + NUMBER_COST * size, both + beside, both + alone)
    return cost


# --- the model --------------------------------------------------------------------------------------------------------


class Model:
    """A model of the layers or operations above, from model.json (`description`) and model.safetensors (`weights`).

    Raises Refused if the description has others.
    """

    def __init__(self, description: dict[str, Any], weights: Weights) -> None:
        self.layers: list[dict[str, Any]] = description["layers"] or []
        self.weights: list[Weights] = [{} for _ in self.layers]
        self.operations: Operations | None = None
        if description["layers"] is None:
            if not description.get("operations"):
                name = description["architecture"].get("name", description["architecture"]["type"])
                detail = "its model.json has no list of operations, as those written by gradq 0.2.0"
                raise Refused(f"{name} is not computed here: {detail}; run its model.onnx instead")
            self.operations = Operations(description["operations"], weights)
        else:
            if unknown := [layer["type"] for layer in self.layers if layer["type"] not in LAYERS]:
                raise Refused(f"the model has a layer {unknown[0]}, which is not one of {', '.join(LAYERS)}")
            for name, array in weights.items():
                layer, _, part = name.partition(".")
                self.weights[int(layer)][part] = array
        self.shape: tuple[int, int, int] = tuple(description["input_shape"])
        self.classes: list[str] = description["classes"]
        scale = description["normalization"]
        self.white: float = scale["white"]
        mean, std = (np.array(scale[name], np.float64) for name in ("mean", "std"))
        self.mean = mean.astype(np.float32).reshape(-1, 1, 1)
        self.std = np.where(std <= NO_SPREAD, 1, std).astype(np.float32).reshape(-1, 1, 1)
        # trained on pixels of which most are 0 or 1 of a much larger white, as in a binary image stored for white 255
        self.dim = self.white > 1 and bool(((mean**2 + std**2) * self.white**2 <= 1 + 1e-6).all())
        if self.operations is None:
            self.cost = _cost(self.layers, self.weights, self.shape)
        else:
            self.cost = self.operations.cost(self.shape)

    @property
    def size_bytes(self) -> int:
        own = sum(array.nbytes for layer in self.weights for array in layer.values())
        return own + (self.operations.size_bytes if self.operations else 0)

    def logits(self, pixels: Array) -> Array:
        """Pixels (N,C,H,W) in [0, 1] -> logits (N,K); in chunks, which bound the memory."""
        chunk = self.images_at_once
        parts = [self._forward(pixels[i : i + chunk]) for i in range(0, len(pixels), chunk)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)), np.float32)

    @property
    def images_at_once(self) -> int:
        """How many images are computed together: as many as hold CHUNK_FLOATS numbers, and at least 1."""
        return max(1, CHUNK_FLOATS // self.cost.floats)

    def _forward(self, pixels: Array) -> Array:
        x: Array = pixels.astype(np.float32, copy=False) - self.mean
        x /= self.std
        if self.operations is not None:
            return self.operations(x)
        for layer, weights in zip(self.layers, self.weights, strict=True):
            x = LAYERS[layer["type"]](layer["arguments"], weights, x)
        return x

    def predict(self, images: Any, invert: bool = False, white: float | None = None) -> list[dict[str, Any]]:
        """Label, class and probabilities of each image. `images` is one image or several, as for `pixels_of`, which
        describes `white` too; `invert` turns black on white into white on black."""
        return self.answer(self.array(images, invert, white))

    def array(self, images: Any, invert: bool = False, white: float | None = None, first: int = 0) -> Array:
        """Numbers of one image or several -> pixels (N,C,H,W) in [0, 1]. `first`: the number of the first image in an
        error. Raises Refused: see `pixels_of`."""
        pixels = pixels_of(images, self.shape, self.white, white, self.dim, first)
        return 1 - pixels if invert else pixels

    def picture(self, image: Array, invert: bool = False) -> Array:
        """A decoded picture of any size, as for `fitted` -> pixels (1,C,H,W) in [0, 1]: those that the training had, if
        it was uploaded for it. Raises Refused if the channels do not fit."""
        return levelled(fitted(image, self.shape, invert), self.white)[None]

    def answer(self, pixels: Array) -> list[dict[str, Any]]:
        """Label, class and probabilities of each image, from pixels (N,C,H,W) in [0, 1]."""
        probabilities = softmax(self.logits(pixels))
        rounded = probabilities.astype(np.float64).round(7).tolist()  # the precision of float32 below 1
        labels = probabilities.argmax(1).tolist()
        return [
            {"label": label, "class": self.classes[label], "probabilities": row}
            for label, row in zip(labels, rounded, strict=True)
        ]


def load(folder: str | Path, weights: str = "model.safetensors") -> Model:
    """Load the model from `folder`, which has model.json and the safetensors file `weights`."""
    from safetensors.numpy import load_file

    folder = Path(folder)
    return Model(json.loads((folder / "model.json").read_text()), load_file(folder / weights))


# --- images in --------------------------------------------------------------------------------------------------------


def numbers_of(images: Any) -> Array:
    """Nested lists of numbers as an array. Raises Refused for anything else."""
    waiting = [images]
    while waiting:  # before numpy sees a text: it would make room for the longest one at each place
        part = waiting.pop()
        if isinstance(part, str | bytes):
            raise Refused(f"images must be numbers, got {type(part).__name__}")
        if isinstance(part, list | tuple) and not set(map(type, part)) <= {int, float, bool}:
            waiting += [inner for inner in part if isinstance(inner, list | tuple | str | bytes)]
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise Refused("the images have different sizes") from error
    if array.dtype.kind not in "biuf":
        raise Refused(f"images must be numbers, got {array.dtype}")
    return array


def arranged(array: Array, shape: tuple[int, int, int]) -> Array:
    """A view (N,C,H,W) of one image or several. Raises Refused if they do not have the model's shape (C,H,W)."""
    channels, height, width = shape
    if array.shape in ((height, width), shape):
        array = array[None]
    if channels == 1 and array.shape[1:] == (height, width):
        array = array[:, None]
    elif array.shape[1:] == (height, width, channels):
        array = array.transpose(0, 3, 1, 2)
    if array.shape[1:] != shape:
        wanted = f"({channels}, {height}, {width})" + (f" or ({height}, {width})" if channels == 1 else "")
        raise Refused(f"each image must have the shape {wanted}, got {array.shape} in all")
    return array


def pixels_of(
    images: Any,
    shape: tuple[int, int, int],
    white: float,
    declared: float | None = None,
    dim: bool = False,
    first: int = 0,
) -> Array:
    """Convert one image or several, of the model's size, to (N,C,H,W) float32 in [0, 1].

    One image is (H,W) or (C,H,W); several are (N,H,W) for one channel, (N,C,H,W), or (N,H,W,C). The numbers of each
    image are read for themselves, whatever their type and the images beside it: from 0 (black) to `declared` if it is
    given; otherwise as fractions of white if none exceeds 1, else from 0 to the dataset's `white`. An image of zeros
    and ones is thus black and white, unless the model was trained on such images with a larger white (`dim`). Raises
    Refused for anything else.
    """
    array = numbers_of(images)
    if array.size == 0:
        return np.zeros((0, *shape), np.float32)
    array = arranged(array, shape)
    if array.dtype.kind == "b":
        return array.astype(np.float32)
    lowest, highest = (bound.astype(np.float64) for bound in (array.min((1, 2, 3)), array.max((1, 2, 3))))
    if declared is not None:
        limits = np.full(len(array), float(declared))
    else:
        fractions = highest <= 1 + ROUNDING
        if dim:
            fractions &= ~((array == 0) | (array == 1)).all((1, 2, 3))
        limits = np.where(fractions, 1.0, white)
        unknown = (highest > 1 + ROUNDING) & (highest < 2) & (white >= 2)
        if unknown.any():
            i = int(unknown.argmax())
            got = f"got {lowest[i]:g} to {highest[i]:g} in image {first + i}"
            raise Refused(
                f"numbers must be between 0 and 1, {got}, which are neither fractions of white nor pixels from 0 to "
                f"{white:g}; send `white`, the number that is white"
            )
    wrong = ~((lowest >= 0) & (highest <= limits + ROUNDING))  # NaN is wrong too
    if wrong.any():
        i = int(wrong.argmax())
        whites = (1.0, white) if declared is None else (float(declared),)
        ranges = dict.fromkeys(f"between 0 and {limit:g}" for limit in whites)
        raise Refused(
            f"numbers must be {', or '.join(ranges)}, got {lowest[i]:g} to {highest[i]:g} in image {first + i}"
        )
    by_image = limits.astype(np.float32).reshape(-1, 1, 1, 1)
    pixels: Array = np.minimum(array.astype(np.float32) / by_image, np.float32(1))
    return pixels


def fitted(image: Array, shape: tuple[int, int, int], invert: bool = False) -> Array:
    """Convert a picture of any size to the model's shape (C,H,W), float32 in [0, 1].

    `image` is (h,w,1..4), grey or RGB, with or without alpha: floats in [0, 1], or unsigned integers up to the highest
    of their type. Transparent pixels show the background: white if the image is to be inverted, else black. Raises
    Refused if the channels do not fit.
    """
    given = image.shape[2]
    most = np.float32(np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)
    has_alpha = given in (2, 4)
    ground = np.float32(invert)

    def plane(i: int, some: slice) -> Array:  # one channel of some rows at a time as floats: a photo has many pixels
        colour: Array = image[some, :, i].astype(np.float32) / most
        if not has_alpha:
            return colour
        alpha = image[some, :, -1].astype(np.float32) / most
        return colour * alpha + ground * (1 - alpha)

    def luma(some: slice) -> Array:
        red, green, blue = (np.float32(share) for share in (0.299, 0.587, 0.114))  # ITU-R BT.601
        return red * plane(0, some) + green * plane(1, some) + blue * plane(2, some)

    colours = range(given - has_alpha)
    channels, height, width = shape
    rows, columns = image.shape[:2]
    down, across = resampling(rows, height), resampling(columns, width)
    band = max(1, BAND_PIXELS // columns)

    def resized(plane: Callable[[slice], Array]) -> Array:
        whole = np.empty((rows, columns), np.float32)
        for top in range(0, rows, band):
            whole[top : top + band] = plane(slice(top, top + band))
        return whole if whole.shape == (height, width) else down @ whole @ across.T

    if channels == 1 and len(colours) == 3:
        planes = [resized(luma)]
    elif channels == 3 and len(colours) == 1:
        planes = [resized(functools.partial(plane, 0))] * 3
    elif channels == len(colours):
        planes = [resized(functools.partial(plane, i)) for i in colours]
    else:
        raise Refused(f"the model takes images of {channels} channels, and a picture has 1 or 3")
    pixels: Array = np.clip(np.stack(planes), 0, 1)
    return 1 - pixels if invert else pixels


def levelled(pixels: Array, white: float) -> Array:
    """Pixels in [0, 1], rounded to whole grey levels from 0 to `white` if that is a white of stored pictures."""
    return np.rint(pixels * np.float32(white)) / np.float32(white) if white in GREY_LEVELS else pixels


def turned(image: Array, orientation: int) -> Array:
    """The image (h,w,...) as a camera means it to be shown. `orientation` is EXIF's number, 1 to 8."""
    if orientation >= 5:  # 5 to 8: rows and columns are swapped
        image = image.swapaxes(0, 1)
    upside_down, mirrored = {2: (0, 1), 3: (1, 1), 4: (1, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}.get(orientation, (0, 0))
    return image[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


EXIF_PREFIX = b"Exif\0\0"  # in a JPEG; some writers put it into a PNG, and Pillow then adds another


def orientation_of(exif: bytes) -> int:
    """The orientation, 1 to 8, in EXIF data, with or without prefixes; 1 if there is none.

    The first directory of a TIFF: tag 0x0112, a short. https://www.w3.org/TR/png-3/#eXIf
    """
    while exif.startswith(EXIF_PREFIX):
        exif = exif.removeprefix(EXIF_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is not None:
            (start,) = struct.unpack_from(f"{order}I", exif, 4)
            (entries,) = struct.unpack_from(f"{order}H", exif, start)
            for i in range(entries):
                tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * i)
                if (tag, kind) == (0x0112, 3):
                    return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # damaged: the picture is shown as it is stored, as browsers do
        pass
    return 1


def resampling(size: int, wanted: int) -> Array:
    """Matrix (wanted, size) that resizes one axis; its rows sum to 1.

    Downsampling averages the pixels that a new one covers; upsampling interpolates linearly between the two nearest.
    """
    old = np.arange(size)
    if wanted <= size:
        edges = np.arange(wanted + 1)[:, None] * (size / wanted)
        weights = np.minimum(edges[1:], old + 1) - np.maximum(edges[:-1], old)
    else:
        centres = (np.arange(wanted)[:, None] + 0.5) * (size / wanted) - 0.5
        weights = 1 - np.abs(np.clip(centres, 0, size - 1) - old)
    weights = np.maximum(weights, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


# --- PNG --------------------------------------------------------------------------------------------------------------

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, grey and alpha, RGBA
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
GREY, RGB, PALETTE, GREY_ALPHA = 0, 2, 3, 4


def read_png(data: bytes) -> Array:
    """Decode a PNG to (h,w,channels) float32 in [0, 1], where the channels are grey, grey and alpha, RGB or RGBA.

    It is turned as its EXIF data says. A palette of greys is grey. Grey alone keeps 16 bits; of other samples of 16
    bits the upper 8 are used. Raises Refused for a damaged or interlaced file, or one of more than `MAX_PIXELS`. https://www.w3.org/TR/png-3/
    """
    chunks = _chunks(data)
    width, height, depth, colour, compression, filters, interlace = struct.unpack(">IIBBBBB", chunks["IHDR"])
    if colour not in SAMPLES or depth not in DEPTHS[colour] or compression or filters or not width or not height:
        raise Refused("a damaged PNG: invalid header")
    if interlace:
        raise Refused("an interlaced PNG (Adam7), which is not supported; save it without interlacing")
    if width * height > MAX_PIXELS:
        raise Refused(f"a PNG of {width} x {height} pixels; the limit is {MAX_PIXELS} pixels")
    row_bytes = -(-width * SAMPLES[colour] * depth // 8)
    size = height * (1 + row_bytes)
    try:
        raw = zlib.decompressobj().decompress(chunks["IDAT"], size)
    except zlib.error as error:
        raise Refused(f"a damaged PNG: {error}") from error
    if len(raw) < size:
        raise Refused(f"a truncated PNG: {len(raw)} bytes of {size}")
    rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + row_bytes)
    if rows[:, 0].max() > 4:
        raise Refused(f"a damaged PNG: unknown filter {rows[:, 0].max()}")
    plain = unfiltered(rows[:, 0], rows[:, 1:], max(1, SAMPLES[colour] * depth // 8))
    samples = _samples(plain, depth)[:, : width * SAMPLES[colour]].reshape(height, width, SAMPLES[colour])
    pixels = _colours(samples, depth, colour, chunks).astype(np.float32)
    return turned(pixels, orientation_of(chunks.get("eXIf", b"")))


def _chunks(data: bytes) -> dict[str, bytes]:
    """Chunk name -> content; the parts of IDAT are joined."""
    if not data.startswith(SIGNATURE):
        raise Refused("not a PNG file")
    found: dict[str, bytes] = {}
    parts: list[bytes] = []
    place = len(SIGNATURE)
    while "IEND" not in found:
        if place + 12 > len(data):
            raise Refused("a truncated PNG")
        length, kind = struct.unpack_from(">I4s", data, place)
        content, end = data[place + 8 : place + 8 + length], place + 12 + length
        if end > len(data):
            raise Refused("a truncated PNG")
        if zlib.crc32(kind + content) != struct.unpack_from(">I", data, end - 4)[0]:
            raise Refused("a damaged PNG: wrong checksum")
        name, place = kind.decode("latin-1"), end
        if name == "IDAT":
            parts.append(content)
        else:
            found.setdefault(name, content)
    if len(found.get("IHDR", b"")) != 13 or not parts:
        raise Refused("a damaged PNG: no header or no image data")
    return {**found, "IDAT": b"".join(parts)}


def unfiltered(filters: Array, rows: Array, step: int) -> Array:
    """Undo the filter of each row: each byte was stored as its difference from a prediction made from the bytes to the
    left (a), above (b) and above left (c). `step` is the number of bytes per pixel.

    A byte depends on these three, so decoders go byte by byte, which is slow in Python. All bytes on one diagonal, from
    bottom left to top right, depend only on the two diagonals before it, so they are computed together.
    """
    height, width = len(rows), rows.shape[1] // step
    out = np.zeros((height + 1, width + 1, step), np.int16)  # with a zero row above and a zero pixel to the left
    differences = rows.reshape(height, width, step)
    for diagonal in range(height + width - 1):
        y = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        x = diagonal - y
        a, b, c = out[y + 1, x], out[y, x + 1], out[y, x]
        to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)  # of the Paeth prediction a + b - c
        paeth = np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))
        guess = np.choose(filters[y][:, None], [np.zeros_like(a), a, b, (a + b) >> 1, paeth])
        out[y + 1, x + 1] = (differences[y, x] + guess) & 0xFF
    return out[1:, 1:].astype(np.uint8).reshape(height, width * step)


def _samples(rows: Array, depth: int) -> Array:
    """Unpack bytes to samples of `depth` bits, high bits first."""
    if depth == 8:
        return rows
    if depth == 16:
        return rows.reshape(len(rows), -1, 2).view(">u2")[..., 0]
    bits = np.unpackbits(rows, axis=1).reshape(len(rows), -1, depth)
    return bits @ (1 << np.arange(depth)[::-1])


def _colours(samples: Array, depth: int, colour: int, chunks: dict[str, bytes]) -> Array:
    transparent = chunks.get("tRNS")
    if colour == PALETTE:
        palette = np.frombuffer(chunks.get("PLTE", b""), np.uint8)
        palette = palette[: len(palette) // 3 * 3].reshape(-1, 3)
        return coloured(samples[..., 0], palette, transparent) / 255
    image = samples / (2**depth - 1) if depth < 16 or colour == GREY else (samples >> 8) / 255
    if transparent is not None and colour in (GREY, RGB) and len(transparent) == 2 * SAMPLES[colour]:
        clear = np.frombuffer(transparent, ">u2") & (2**depth - 1)  # the upper bits have no meaning
        return np.concatenate([image, (samples != clear).any(2, keepdims=True)], axis=2)
    return image


def coloured(places: Array, palette: Array, transparent: bytes | None) -> Array:
    """The pixels (h,w,1..4) of places (h,w) in a palette (n,3) of bytes: grey if all colours that occur are.

    `transparent`: the alpha of the first colours, as in a tRNS chunk. Raises Refused for a place beyond the palette.
    """
    if places.max(initial=0) >= len(palette):
        raise Refused("a damaged PNG: a pixel's colour is not in the palette")
    used = np.zeros(len(palette), bool)
    for row in places:  # row by row: as indices, numpy holds 8 bytes per pixel
        used[row] = True
    colours = palette[:, :1] if (palette[used] == palette[used, :1]).all() else palette
    if transparent is not None:
        alpha = np.full((len(palette), 1), 255, np.uint8)
        known = np.frombuffer(transparent, np.uint8)[: len(palette)]
        alpha[: len(known), 0] = known
        colours = np.hstack([colours, alpha])
    out = np.empty((*places.shape, colours.shape[1]), colours.dtype)
    for row, target in zip(places, out, strict=True):
        target[:] = colours[row]
    return out


# --- the command ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="predict.py", description="Classify PNG images with the model.")
    parser.add_argument("images", nargs="+", metavar="IMAGE.png")
    parser.add_argument("--invert", action="store_true", help="for black on white, if the model learnt white on black")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument(
        "--model", default=Path(__file__).parent, metavar="FOLDER", help="default: the folder of this file"
    )
    options = parser.parse_args(arguments)
    answers = []
    try:
        model = load(options.model)
        for name in options.images:
            try:
                pixels = model.picture(read_png(Path(name).read_bytes()), options.invert)
            except Refused as error:
                raise Refused(f"{name}: {error}") from error
            answers.append({"file": name, **model.answer(pixels)[0]})
    except (OSError, Refused) as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
        return 0
    for answer in answers:
        ranked = sorted(zip(answer["probabilities"], model.classes, strict=True), reverse=True)[:SHOWN_CLASSES]
        print(answer["file"], answer["class"], *(f"{name}:{share:.4f}" for share, name in ranked), sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
