"""Deployment: trained models in an equivalent form with fewer operations."""
