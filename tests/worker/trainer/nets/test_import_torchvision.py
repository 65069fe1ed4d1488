"""torchvision works with a torch without CUDA: the parts that gradq uses, which need no compiled operator."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = textwrap.dedent(
    """
    import sys
    import torch
    from worker.trainer.nets.import_torchvision import import_torchvision
    assert "torchvision" not in sys.modules
    vision = import_torchvision()
    assert import_torchvision() is vision
    from torchvision.transforms import v2
    torch.manual_seed(0)
    turned = v2.RandomRotation((90, 90))(torch.arange(9.0).view(1, 3, 3))
    assert turned[0, 0].tolist() == [2, 5, 8], turned
    with torch.no_grad():
        out = vision.models.resnet18(weights=None).eval()(torch.zeros(1, 3, 32, 32))
    assert out.shape == (1, 1000) and out.isfinite().all()
    assert vision.datasets.MNIST.resources
    """
)


@pytest.mark.long
def test_torchvision_transforms_and_runs_a_model_in_a_fresh_process():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=150)
