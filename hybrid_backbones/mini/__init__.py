"""Embedded mini dataset, and the preset that runs any config on it."""
