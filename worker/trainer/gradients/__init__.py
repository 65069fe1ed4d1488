"""Gradients by hand and by autograd, and the checks that both agree."""
