"""Datasets and loading transforms whose errors name the faulty file."""
