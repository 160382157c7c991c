"""Remote servers that speak the KServe v2 protocol, Triton first of all: the system under test over a network.

Protocol logic (``http2``, ``http1``, ``messages``) knows bytes and no socket; ``wire`` knows sockets and no protocol;
``system`` puts the two together for the load generator.
"""
