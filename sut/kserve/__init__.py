"""The KServe v2 protocol over gRPC and HTTP/1.1, as logic without I/O: bytes in, events out, and back.

Knows messages, frames and tensors; must not know sockets, servers or the load generator.
"""
