"""The files of a finished run: model, curve, pictures, ONNX, and how far each export deviates from the model."""
