"""A real Triton at an address of this host: python triton_host.py ADDRESS.  Says where it is, until its input ends."""

from __future__ import annotations

import sys

from drumfire.sut.remote.triton_local import server

if __name__ == "__main__":
    server.HOST = sys.argv[1]
    with server.LocalTriton() as triton:
        print(triton.grpc, flush=True)
        sys.stdin.read()
