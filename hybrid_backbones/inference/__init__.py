"""Inference: predict with a trained model, and draw what it predicts."""
