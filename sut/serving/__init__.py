"""An inference server: models computed in this process, behind the KServe v2 protocol over HTTP and gRPC.

The requests of all connections wait in one queue per model and are computed in batches.  Depends on backends and
models, not on the load generator's runs or the client side.
"""
