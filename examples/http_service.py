"""Any HTTP service measured: one of the standard library in a thread of this process, and a run against it.

``python http_service.py [SECONDS]`` ends with the status of the run: 0 for VALID, 1 for INVALID.  At 200 queries a
second, less than 3 s have too few queries to be VALID.
"""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Doubler(BaseHTTPRequestHandler):
    """Answers ``{"x": [...]}`` with ``{"y": [...]}``."""

    protocol_version = "HTTP/1.1"  # keeps connections
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        values = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["x"]
        body = json.dumps({"y": [2 * value for value in values]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main(seconds: float) -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Doubler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/double"
    words = ["run", "http", "doubler", "--url", url, "--body", '{"x": $input}', "--input", "16", "--expect-json", "y"]
    traffic = ["--scenario", "Server", "--qps", "200", "--max-latency", "0.2", "--time", str(seconds)]
    return subprocess.run([sys.executable, "-m", "drumfire", *words, *traffic, "--no-dashboard"]).returncode


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0))
