"""Deployment: trained models in a form that computes the same in fewer operations."""
