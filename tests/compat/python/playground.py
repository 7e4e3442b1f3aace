"""A playground as a child process."""

import json
import pathlib
import signal
import subprocess
import tempfile
import time

# How long a playground may take to be ready, or to stop, on a slow machine.
READY_TIMEOUT = 60


class Playground:
    """Started on entry, once its first write and read have gone through raft; stopped on exit."""

    def __init__(self, program, api_version):
        self.program = program
        self.api_version = api_version

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tessera-compat-python-")
        ready_file = pathlib.Path(self.folder.name) / "ready.json"
        self.child = subprocess.Popen(
            [self.program, "playground", "--port", "0", "--api-version", self.api_version,
             "--ready-file", str(ready_file)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_TIMEOUT
        while not ready_file.exists():
            if self.child.poll() is not None:
                raise RuntimeError(f"the playground ended with {self.child.returncode} before it was ready")
            if time.monotonic() > deadline:
                self.child.kill()
                raise RuntimeError(f"the playground was not ready within {READY_TIMEOUT} s")
            time.sleep(0.02)
        self.endpoints = json.loads(ready_file.read_text())["pd_endpoints"]
        return self

    def __exit__(self, *_):
        self.child.send_signal(signal.SIGTERM)
        try:
            code = self.child.wait(READY_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise
        finally:
            self.folder.cleanup()
        if code != 0:
            raise RuntimeError(f"the playground ended with {code} on SIGTERM")
