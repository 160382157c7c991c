"""The messages of the KServe v2 protocol, as protobuf and as JSON, for clients and servers."""
