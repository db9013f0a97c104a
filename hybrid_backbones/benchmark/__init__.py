"""Measure operators, backbones and whole models on this machine.

Every row of a table is measured in a process of its own, one after the other: what one
implementation leaves in allocators and caches cannot flatter the next.
"""
