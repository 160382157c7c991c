"""The KServe v2 protocol over gRPC and HTTP/1.1, for clients and servers, without I/O: bytes in, events out, and back.

Does not depend on sockets, servers or the load generator.
"""
