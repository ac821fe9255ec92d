"""Tensors, arrays and small values: everything that can be computed without knowing where files live."""
