"""`inlier serve` as a process of its own, for tests of the page and of what happens to processes."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request


class Server:
    """`inlier serve` in a process of its own."""

    def __init__(self, folder, *arguments, scheme="http"):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.url, self.data = f"{scheme}://127.0.0.1:{self.port}", folder / "data"
        code = "import tiny_backbone, inlier.cli; inlier.cli.main()"
        options = ["--data", self.data, "--port", self.port]
        command = [sys.executable, "-c", code, "serve", *map(str, arguments), *map(str, options)]
        here = os.path.dirname(__file__)
        paths = os.pathsep.join([here, os.path.join(here, "..", "src")])
        self._command, self._environment = command, os.environ | {"PYTHONPATH": paths}
        self.start()

    def start(self):
        self.process = subprocess.Popen(self._command, env=self._environment, stdout=subprocess.DEVNULL)
        for _ in range(300):
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as one:
                    if self.url.startswith("https"):
                        return
                    one.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    assert one.recv(15).startswith(b"HTTP/1.1 200")
                    return
            except OSError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.1)

    def inspect(self, raw, station="press", **headers):
        request = urllib.request.Request(
            f"{self.url}/v1/stations/{station}/inspect", raw, headers | {"Content-Type": "application/octet-stream"}
        )
        urllib.request.urlopen(request, timeout=30).close()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
