"""Datasets as tensors and as memory maps: loading, normalization, batches, augmentation."""
