"""``make gpu-proof``: what can be shown of the GPU path on the machine at hand, within minutes and without a network."""
