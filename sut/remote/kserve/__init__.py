"""Servers that speak the KServe v2 protocol, Triton first of all, over gRPC, HTTP and shared memory."""
