"""Any HTTP service that answers a request with a body, such as one made with FastAPI.

``bodies`` reads what is sent, ``post`` is the protocol without I/O, ``target`` puts both together.
"""
