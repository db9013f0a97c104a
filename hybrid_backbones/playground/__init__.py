"""Playground: a page in the browser to try trained models, on this machine only."""
