"""Servers that speak the KServe v2 protocol, such as Triton, over gRPC, HTTP and shared memory.

``drumfire.sut.kserve`` has the protocol without I/O; ``system`` connects it to sockets and to the load generator.
"""
