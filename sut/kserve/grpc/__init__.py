"""gRPC on HTTP/2 without I/O: calls and their framing."""
