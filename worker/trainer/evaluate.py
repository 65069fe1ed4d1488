"""Evaluates a model on a split: loss, accuracy, and the logits that pictures and tables are made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.trainer.data.memmap import Images
from worker.trainer.nets.losses import Loss

CHUNK = 2048  # examples per forward pass: large enough to be fast, small enough for a convolution's activations
CHUNK_PIXELS = 1 << 23  # values per forward pass: fewer examples if the images are large


@dataclass(frozen=True)
class Evaluation:
    loss: float
    accuracy: float
    logits: Tensor  # (N,K), on the CPU


@torch.no_grad()
def evaluate(model: nn.Module, loss: Loss, images: Images, labels: Tensor, batch_size: int) -> Evaluation:
    """Loss, accuracy and logits of the model on images (N,C,H,W) with labels (N).

    The loss is on the scale of the training loss: the mean over examples or, for a summed loss, the mean over batches
    of `batch_size`. Leaves the model in evaluation mode.
    """
    model.eval()  # dropout is the identity, batch norm uses its running statistics
    step = max(1, min(CHUNK, CHUNK_PIXELS // max(1, images[:1].numel())))
    logits = torch.cat([model(x) for x in images.split(step)])
    total = loss.total(logits, labels).item()
    n = len(labels) if loss.reduction == "mean" else -(-len(labels) // batch_size)
    correct = (logits.argmax(1) == labels).sum().item()
    return Evaluation(loss=total / n, accuracy=correct / len(labels), logits=logits.cpu())
