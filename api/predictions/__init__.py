"""Images sent for predictions: their formats, what one request may cost, and who may compute at the same time."""
