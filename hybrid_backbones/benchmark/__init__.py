"""Benchmarks of operators, backbones and whole models on this machine.

Each row of a table is measured in a separate process, one after the other, so that the allocator
and cache state left by one implementation does not favour the next.
"""
