"""Layers, architectures, losses and initial weights; torchvision's models."""
