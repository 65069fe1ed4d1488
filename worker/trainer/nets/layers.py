"""The manual forward and backward pass of every layer, without autograd.

A forward returns its output and what its backward needs (`cache`). A backward takes `dout`, the gradient of the loss
with respect to the output, sets the gradients of the layer's parameters and returns `dx`, the gradient with respect to
the input. Linear and convolutional layers skip `dx` with `needs_dx=False`, for the lowest layer with weights: for
784->30 it is a third of the layer's arithmetic. docs/gradients.md derives each line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn


def set_grad(parameter: Tensor, gradient: Tensor) -> None:
    """Set p.grad: the new gradient replaces the old one and is not added to it.

    It gets the strides of its parameter, which optimizers rely on that update both in one pass.
    """
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    parameter.grad = gradient


# --- layers with weights ----------------------------------------------------------------------------------------------

WITH_WEIGHTS = (nn.Linear, nn.Conv2d)


# N batch · I features in · O features out
class Linear(nn.Linear):
    """nn.Linear with its product transposed: out.T (O,N) = weight (O,I) @ x.T (I,N).

    The sums are the same, but a CPU's matrix product is faster with the batch as its long side if O is small: one of
    64 x 784 by 784 x 30 takes 32 µs instead of 53 on one AVX-512 thread. The output is stored column by column.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear_forward(self, x)[0]


def linear_forward(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """out (N,O) = x (N,I) @ weight.T (I,O) + bias (O)"""
    return torch.addmm(layer.bias.unsqueeze(1), layer.weight, x.T).T, x


def linear_backward(layer: nn.Linear, dout: Tensor, x: Tensor, needs_dx: bool = True) -> Tensor | None:
    """dweight (O,I) = dout.T @ x, dbias (O) = Σ dout; dx (N,I) = dout (N,O) @ weight, or None without needs_dx"""
    set_grad(layer.weight, dout.T @ x)  # (O,I): the sum of the examples' outer products
    set_grad(layer.bias, dout.sum(0))  # (O):   the bias was broadcast over N
    return (layer.weight.T @ dout.T).T if needs_dx else None  # (N,I)


# N batch · C channels in · O channels out · H,W image · K kernel (odd; stride 1, padding K//2 keep H and W)
def conv2d_forward(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """out (N,O,H,W): at each pixel, weight (O,C,K,K) times the K x K patch of x (N,C,H,W) around it, plus bias (O)"""
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding), x


def conv2d_backward(layer: nn.Conv2d, dout: Tensor, x: Tensor, needs_dx: bool = True) -> Tensor | None:
    """dx (N,C,H,W) from dout (N,O,H,W), or None without needs_dx; sets dweight (O,C,K,K) and dbias (O)"""
    # Both gradients are convolutions: dweight of x with dout as the kernel, summed over N as a forward sums over C ...
    set_grad(layer.weight, correlation(x, dout, layer))  # (O,C,K,K)
    assert layer.bias is not None
    set_grad(layer.bias, dout.sum((0, 2, 3)))  # (O): the bias was broadcast over N, H and W
    if not needs_dx:
        return None
    # ... and dx of dout with the mirrored weight: a pixel's contribution to the right and down returns from there.
    mirrored = layer.weight.flip(2, 3).transpose(0, 1)  # (C,O,K,K)
    return F.conv2d(dout, mirrored, padding=layer.padding)  # (N,C,H,W)


def correlation(x: Tensor, dout: Tensor, layer: nn.Conv2d) -> Tensor:
    """Σ over n, h, w of dout[n,o,h,w] x[n,c,h+i,w+j], x padded as the layer's input: (O,C,K,K).

    It is F.conv2d(x.transpose(0, 1), dout.transpose(0, 1), padding=…).transpose(0, 1), by PyTorch's kernel for it:
    with few channels that one takes a tenth of the time, since it treats no image as a channel.
    """
    padding = list(layer.padding)
    found: Tensor = torch.ops.aten.convolution_backward(
        *(dout, x, layer.weight, None, layer.stride, padding, layer.dilation, False, [0, 0], layer.groups),
        output_mask=[False, True, False],
    )[1]
    return found


# --- batch normalization ----------------------------------------------------------------------------------------------

BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


# x (N,C) or (N,C,H,W) · M values per channel: N, or N·H·W · mean, inv_std (C) · x̂ = (x - mean) * inv_std, shape of x
def batch_norm_forward(layer: BatchNorm, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """out = x̂ * weight + bias with inv_std = 1 / sqrt(var + eps) (Ioffe and Szegedy 2015, algorithm 1).

    mean and var are those of the batch in training, the running ones in evaluation. Training updates the running ones.
    Raises ValueError in training if there is only one value per channel, as nn.BatchNorm does.
    """
    mean, var = layer.running_mean, layer.running_var
    assert mean is not None
    assert var is not None
    if layer.training:
        if x.numel() == x.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
        assert layer.momentum is not None
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked.add_(1)
        # The kernel of nn.BatchNorm. It moves running_mean and running_var by `momentum` (0.1) towards the mean and
        # variance of the batch; that variance is divided by M - 1 and not by M.
        out, mean, inv_std = torch.native_batch_norm(
            x, layer.weight, layer.bias, mean, var, True, layer.momentum, layer.eps
        )
    else:
        out = F.batch_norm(x, mean, var, layer.weight, layer.bias, False, 0.0, layer.eps)
        inv_std = (var + layer.eps).rsqrt()
    return out, ((x - _per_channel(mean, x)).mul_(_per_channel(inv_std, x)), inv_std)


def batch_norm_backward(layer: BatchNorm, dout: Tensor, cache: tuple[Tensor, Tensor]) -> Tensor:
    """dx, of the shape of dout (Ioffe and Szegedy 2015, section 3, simplified); sets dweight (C) and dbias (C)"""
    normalized, inv_std = cache
    axes = [axis for axis in range(dout.ndim) if axis != 1]
    dweight, dbias = (dout * normalized).sum(axes), dout.sum(axes)  # (C), (C): both were broadcast over the M values
    set_grad(layer.weight, dweight)
    set_grad(layer.bias, dbias)
    scale = _per_channel(layer.weight * inv_std, dout)
    if not layer.training:
        return dout * scale  # the running mean and variance are constants
    # Each x also changes the mean, which subtracts the mean of dout, and the variance, which subtracts the component of
    # dout along x̂: shifting or scaling a whole channel does not change the output, so dx has no such component.
    m = dout.numel() // dout.shape[1]
    return (dout - _per_channel(dbias / m, dout) - normalized * _per_channel(dweight / m, dout)) * scale


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """values (C) -> (C) or (C,1,1), to broadcast over x (N,C) or (N,C,H,W)"""
    return values.view(-1, *[1] * (x.ndim - 2))


# --- activations: each acts on single values, so dx = dout * slope; all shapes are that of x --------------------------


def relu_forward(layer: nn.ReLU, x: Tensor) -> tuple[Tensor, Tensor]:
    """out = max(x, 0)"""
    out = x.relu()
    return out, out


def relu_backward(layer: nn.ReLU, dout: Tensor, out: Tensor) -> Tensor:
    """slope 1 where x > 0, else 0 (at 0 too, as in PyTorch): dout where out > 0, in one pass"""
    passed: Tensor = torch.ops.aten.threshold_backward(dout, out, 0)
    return passed


def tanh_forward(layer: nn.Tanh, x: Tensor) -> tuple[Tensor, Tensor]:
    """out = tanh(x)"""
    out = x.tanh()
    return out, out


def tanh_backward(layer: nn.Tanh, dout: Tensor, out: Tensor) -> Tensor:
    """slope 1 - out²"""
    slope = torch.addcmul(out.new_ones(()), out, out, value=-1)  # rounded once, as PyTorch does
    return dout * slope


def sigmoid_forward(layer: nn.Sigmoid, x: Tensor) -> tuple[Tensor, Tensor]:
    """out = 1 / (1 + exp(-x))"""
    out = x.sigmoid()
    return out, out


def sigmoid_backward(layer: nn.Sigmoid, dout: Tensor, out: Tensor) -> Tensor:
    """slope out (1 - out)"""
    return dout * (1 - out) * out


def gelu_forward(layer: nn.GELU, x: Tensor) -> tuple[Tensor, Tensor]:
    """out = x Φ(x), Φ being the normal distribution's cumulative function, exact by erf (Hendrycks and Gimpel 2016)"""
    return F.gelu(x), x


def gelu_backward(layer: nn.GELU, dout: Tensor, x: Tensor) -> Tensor:
    """slope Φ(x) + x φ(x), by the product rule"""
    cumulative = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))  # Φ(x)
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)  # φ(x) = Φ'(x)
    return dout * (cumulative + x * density)


# --- dropout ----------------------------------------------------------------------------------------------------------


def dropout_forward(layer: nn.Dropout, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """out = x * mask, mask being 1/(1-p) with probability 1 - p and else 0, so that the mean of out is x; in evaluation
    out = x (Srivastava et al. 2014, scaled in training)"""
    if not layer.training:
        return x, None
    # The mask is dropout applied to ones: it is drawn as nn.Dropout draws it, on the CPU and on CUDA.
    mask = F.dropout(torch.ones_like(x), layer.p)
    return x * mask, mask


def dropout_backward(layer: nn.Dropout, dout: Tensor, mask: Tensor | None) -> Tensor:
    """dx = dout * mask; in evaluation dx = dout"""
    return dout if mask is None else dout * mask


# --- layers that only move values -------------------------------------------------------------------------------------


# h,w = H//2, W//2: an odd last row or column belongs to no window
def maxpool2d_forward(layer: nn.MaxPool2d, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """out (N,C,h,w): the largest value of each 2 x 2 window of x (N,C,H,W); among equals the first one wins"""
    out, winners = F.max_pool2d(x, 2, return_indices=True)  # winners (N,C,h,w): their indices in the flat image of H·W
    return out, (winners, x)


def maxpool2d_backward(layer: nn.MaxPool2d, dout: Tensor, cache: tuple[Tensor, Tensor]) -> Tensor:
    """dx (N,C,H,W): dout (N,C,h,w) at the winners, 0 elsewhere"""
    winners, x = cache
    dx = torch.zeros_like(x)  # with the strides of x: what comes before would otherwise mix two layouts
    # windows do not overlap: no index occurs twice
    pixels = dx.permute(0, 2, 3, 1).view(len(dx), -1, dx.shape[1])  # (N,HW,C); raises where it would be a copy
    pixels.scatter_(1, _by_pixel(winners), _by_pixel(dout))
    return dx


def _by_pixel(images: Tensor) -> Tensor:
    """(N,C,H,W) -> (N,HW,C)"""
    return images.permute(0, 2, 3, 1).flatten(1, 2)


def flatten_forward(layer: nn.Flatten, x: Tensor) -> tuple[Tensor, Size]:
    """out (N, C·H·W): the same values in the same order"""
    return x.flatten(1), x.shape


def flatten_backward(layer: nn.Flatten, dout: Tensor, shape: Size) -> Tensor:
    """dx (N,C,H,W): the same values in the input's shape"""
    return dout.view(shape)


Forward = Callable[[Any, Tensor], tuple[Tensor, Any]]
Backward = Callable[..., Any]

PAIRS: dict[type[nn.Module], tuple[Forward, Backward]] = {
    Linear: (linear_forward, linear_backward),
    nn.Conv2d: (conv2d_forward, conv2d_backward),
    nn.BatchNorm1d: (batch_norm_forward, batch_norm_backward),
    nn.BatchNorm2d: (batch_norm_forward, batch_norm_backward),
    nn.ReLU: (relu_forward, relu_backward),
    nn.Tanh: (tanh_forward, tanh_backward),
    nn.Sigmoid: (sigmoid_forward, sigmoid_backward),
    nn.GELU: (gelu_forward, gelu_backward),
    nn.Dropout: (dropout_forward, dropout_backward),
    nn.MaxPool2d: (maxpool2d_forward, maxpool2d_backward),
    nn.Flatten: (flatten_forward, flatten_backward),
}
