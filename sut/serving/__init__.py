"""An inference server: models that this process computes, behind the KServe v2 protocol over HTTP and gRPC.

Requests of all connections wait in one queue a model and are computed in batches.  Knows backends and models; must not
know the load generator's runs, nor the client side.
"""
