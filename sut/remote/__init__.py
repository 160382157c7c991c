"""Remote servers that speak the KServe v2 protocol, Triton first of all: the system under test over a network.

``wire`` knows sockets and no protocol, ``sut.kserve`` the protocol and no socket; ``system`` puts the two together for
the load generator.  ``local`` is a real Triton on this machine to try it with.
"""
