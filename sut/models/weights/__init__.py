"""Weights: bundled, published, exported and quantized."""
