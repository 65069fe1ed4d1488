"""Every layer's forward and backward pass, written by hand. Knows tensors and modules; never calls autograd.

A forward returns its output and what its backward needs (`kept`). A backward takes `dout`, the loss's gradient at the
output, sets the gradients of the layer's own parameters and returns `dx`, the gradient at the input.
The two layers with weights skip `dx` when told that nobody below wants it: for 784->30 it is a third of the layer's
arithmetic. docs/gradients.md derives each line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

# --- layers with weights ----------------------------------------------------------------------------------------------

WITH_WEIGHTS = (nn.Linear, nn.Conv2d)


# N batch · I features in · O features out
class Linear(nn.Linear):
    """nn.Linear, with the product taken the other way round: out.T (O,N) = weight (O,I) @ x.T (I,N).

    The same sums; but with a small O, as 30 units have it, a CPU's matrix product wants the batch as its long side. One
    of 64 x 784 by 784 x 30 takes 32 µs instead of 53 on one AVX-512 thread. What comes out is stored column by column.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear_forward(self, x)[0]


def linear_forward(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """out (N,O) = x (N,I) @ weight.T (I,O) + bias (O)"""
    return torch.addmm(layer.bias.unsqueeze(1), layer.weight, x.T).T, x


def linear_backward(layer: nn.Linear, dout: Tensor, x: Tensor, needs_dx: bool = True) -> Tensor | None:
    layer.weight.grad = dout.T @ x  # (O,I): every example adds its outer product
    layer.bias.grad = dout.sum(0)  # (O):   the bias was broadcast over N
    return (layer.weight.T @ dout.T).T if needs_dx else None  # (N,I): what the layer below receives


# N batch · C channels in · O channels out · H,W image · K kernel (odd; stride 1, padding K//2 keep H and W)
def conv2d_forward(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """out (N,O,H,W): at each place, weight (O,C,K,K) times the K x K patch of x (N,C,H,W) around it, plus bias (O)"""
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding), x


def conv2d_backward(layer: nn.Conv2d, dout: Tensor, x: Tensor, needs_dx: bool = True) -> Tensor | None:
    # Both gradients are convolutions again: of x with dout as the kernel, summed over N as a forward sums over C ...
    x, kernel = x.transpose(0, 1), dout.transpose(0, 1)  # (C,N,H,W), (O,N,H,W)
    layer.weight.grad = (
        F.conv2d(x, kernel, padding=layer.padding).transpose(0, 1).contiguous()
    )  # (C,O,K,K) -> (O,C,K,K)
    assert layer.bias is not None
    layer.bias.grad = dout.sum((0, 2, 3))  # (O): the bias was broadcast over N, H and W
    if not needs_dx:
        return None
    # ... and of dout with the mirrored weight: what a pixel gave to the right and down comes back from there.
    mirrored = layer.weight.flip(2, 3).transpose(0, 1)  # (C,O,K,K)
    return F.conv2d(dout, mirrored, padding=layer.padding)  # (N,C,H,W)


# --- activations: each acts on one number at a time, so dx = dout * slope ---------------------------------------------


def relu_forward(layer: nn.ReLU, x: Tensor) -> tuple[Tensor, Tensor]:
    """out = max(x, 0)"""
    out = x.relu()
    return out, out


def relu_backward(layer: nn.ReLU, dout: Tensor, out: Tensor) -> Tensor:
    return (
        dout * out.sign()
    )  # slope 1 where x > 0, else 0 (at 0 too, as in PyTorch): the sign of out, which is never < 0


def tanh_forward(layer: nn.Tanh, x: Tensor) -> tuple[Tensor, Tensor]:
    """out = tanh(x)"""
    out = x.tanh()
    return out, out


def tanh_backward(layer: nn.Tanh, dout: Tensor, out: Tensor) -> Tensor:
    slope = torch.addcmul(out.new_ones(()), out, out, value=-1)  # tanh' = 1 - tanh², rounded once, as PyTorch does
    return dout * slope


def sigmoid_forward(layer: nn.Sigmoid, x: Tensor) -> tuple[Tensor, Tensor]:
    """out = 1 / (1 + exp(-x))"""
    out = x.sigmoid()
    return out, out


def sigmoid_backward(layer: nn.Sigmoid, dout: Tensor, out: Tensor) -> Tensor:
    return dout * (1 - out) * out  # σ' = σ (1 - σ)


def gelu_forward(layer: nn.GELU, x: Tensor) -> tuple[Tensor, Tensor]:
    """out = x Φ(x), where Φ is the normal distribution's cumulative function (exact, by erf)"""
    return F.gelu(x), x


def gelu_backward(layer: nn.GELU, dout: Tensor, x: Tensor) -> Tensor:
    cumulative = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))  # Φ(x)
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)  # φ(x) = Φ'(x)
    return dout * (cumulative + x * density)  # the product rule: (x Φ)' = Φ + x φ


# --- layers that only move numbers ------------------------------------------------------------------------------------


# h,w = H//2, W//2: an odd last row or column belongs to no window
def maxpool2d_forward(layer: nn.MaxPool2d, x: Tensor) -> tuple[Tensor, tuple[Tensor, Size]]:
    """out (N,C,h,w): the largest of each 2 x 2 window of x (N,C,H,W), the first of them where several are equal"""
    out, winners = F.max_pool2d(x, 2, return_indices=True)  # winners (N,C,h,w): their places in the image of H·W
    return out, (winners, x.shape)


def maxpool2d_backward(layer: nn.MaxPool2d, dout: Tensor, kept: tuple[Tensor, Size]) -> Tensor:
    winners, shape = kept
    dx = dout.new_zeros(shape).flatten(2)  # (N,C,HW): who was not passed on changes nothing
    return dx.scatter_(2, winners.flatten(2), dout.flatten(2)).view(shape)  # windows do not overlap: no place twice


def flatten_forward(layer: nn.Flatten, x: Tensor) -> tuple[Tensor, Size]:
    """out (N, C·H·W): the same numbers in a row"""
    return x.flatten(1), x.shape


def flatten_backward(layer: nn.Flatten, dout: Tensor, shape: Size) -> Tensor:
    return dout.view(shape)  # the same numbers in their old places


Forward = Callable[[Any, Tensor], tuple[Tensor, Any]]
Backward = Callable[..., Any]

PAIRS: dict[type[nn.Module], tuple[Forward, Backward]] = {
    Linear: (linear_forward, linear_backward),
    nn.Conv2d: (conv2d_forward, conv2d_backward),
    nn.ReLU: (relu_forward, relu_backward),
    nn.Tanh: (tanh_forward, tanh_backward),
    nn.Sigmoid: (sigmoid_forward, sigmoid_backward),
    nn.GELU: (gelu_forward, gelu_backward),
    nn.MaxPool2d: (maxpool2d_forward, maxpool2d_backward),
    nn.Flatten: (flatten_forward, flatten_backward),
}
