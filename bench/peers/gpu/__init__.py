"""``make gpu-proof``: what can be shown of the GPU path on a machine within minutes, without a network."""
