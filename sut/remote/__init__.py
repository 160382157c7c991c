"""Models on remote servers as systems under test, by protocol: ``kserve``, and ``tritonclient`` (NVIDIA's own client).

``endpoint`` and ``wire`` (addresses and sockets) serve any protocol.  ``triton_local`` starts a real Triton on this
machine.
"""
