"""A SeaweedFS with the bucket `data`, on loopback, for as long as a `with` lasts."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

KEY, SECRET = "key", "a-secret-of-tests"


class Weed:
    def __init__(self, parent=None):
        self.parent = parent

    def __enter__(self):
        program = os.environ.get("FOREBAY_WEED") or shutil.which("weed") or str(pathlib.Path(sys.prefix, "bin/weed"))
        self.directory = tempfile.mkdtemp(prefix="forebay-weed-", dir=self.parent)
        config = {
            "identities": [
                {
                    "name": "t",
                    "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                }
            ]
        }
        pathlib.Path(self.directory, "s3.json").write_text(json.dumps(config))
        base = 21_000 + os.getpid() % 1000 * 5
        names = ["master", "volume", "filer", "s3"]
        ports = {name: base + n for n, name in enumerate(names)}
        command = [program, "server", f"-dir={self.directory}", "-ip=127.0.0.1", "-filer", "-s3"]
        command += ["-volume.max=40", "-master.volumeSizeLimitMB=256", f"-s3.config={self.directory}/s3.json"]
        command += [f"-{name}.port={port}" for name, port in ports.items()]
        log = open(pathlib.Path(self.directory, "log"), "w")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.address = ("127.0.0.1", ports["s3"])
        self.endpoint = f"http://127.0.0.1:{ports['s3']}"
        until = time.time() + 60
        while True:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{ports['filer']}/buckets/data/", method="POST")
                try:
                    urllib.request.urlopen(request, timeout=5).read()
                except urllib.error.HTTPError as error:
                    if error.code != 409:  # it is there
                        raise
                socket.create_connection(self.address, 2).close()
                break
            except OSError:
                if time.time() > until or self.process.poll() is not None:
                    self.process.kill()
                    raise SystemExit(f"weed did not start, see {self.directory}/log") from None
                time.sleep(0.2)
        time.sleep(2)
        return self

    def environment(self, endpoint=None):
        return os.environ | {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "S3_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
