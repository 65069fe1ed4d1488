"""Manual gradients and autograd's, and the checks that they agree."""
