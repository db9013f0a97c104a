"""Inference: predict with a trained model and draw the predictions."""
