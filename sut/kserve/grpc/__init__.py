"""gRPC on HTTP/2 without I/O, for both sides of a connection."""
