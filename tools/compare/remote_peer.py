"""Reads an object in ranges with one of the peers: remote_peer.py PEER KEY BYTES BLOCK AT_ONCE"""

import os
import queue
import socket
import sys
import threading
import urllib.parse

peer, key, size, block, at_once = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
work = queue.SimpleQueue()
for start in range(0, size, block):
    work.put((start, min(start + block, size)))
total, failed, lock = [0], [], threading.Lock()


def count(length):
    with lock:
        total[0] += length


def s3():
    import boto3
    from botocore.config import Config

    config = Config(max_pool_connections=at_once, s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], config=config)


def boto3_reader():
    client = s3()

    def read(start, end):
        body = client.get_object(Bucket="data", Key=key, Range=f"bytes={start}-{end - 1}")["Body"]
        count(len(body.read()))

    return lambda: read


def obstore_reader():
    import obstore
    from obstore.store import S3Store

    options = {"endpoint": os.environ["AWS_ENDPOINT_URL"], "region": "us-east-1"}
    store = S3Store("data", config=options, client_options={"allow_http": True})

    def read(start, end):
        count(len(obstore.get_range(store, key, start=start, end=end)))

    return lambda: read


def raw_reader():
    """The floor: a socket a thread, a signed URL, one buffer, no checks but the length."""
    url = urllib.parse.urlsplit(os.environ["FLOOR_URL"])

    def thread():
        connection = socket.create_connection((url.hostname, url.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer, head = memoryview(bytearray(block)), memoryview(bytearray(4096))

        def read(start, end):
            ask = f"GET {url.path}?{url.query} HTTP/1.1\r\nhost: {url.netloc}\r\nrange: bytes={start}-{end - 1}\r\n\r\n"
            connection.sendall(ask.encode())
            filled = 0
            while (at := bytes(head[:filled]).find(b"\r\n\r\n")) < 0:
                filled += connection.recv_into(head[filled:])
            assert head[9:12] == b"206", bytes(head[:filled])
            got = filled - at - 4
            buffer[:got] = head[at + 4 : filled]
            while got < end - start:
                more = connection.recv_into(buffer[got : end - start], 0, socket.MSG_WAITALL)
                assert more
                got += more
            count(got)

        return read

    return thread


def run(make):
    try:
        read = make()
        while True:
            read(*work.get_nowait())
    except queue.Empty:
        pass
    except BaseException as error:
        failed.append(error)


make = {"boto3": boto3_reader, "obstore": obstore_reader, "raw": raw_reader}[peer]()
threads = [threading.Thread(target=run, args=(make,)) for _ in range(at_once)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
if failed:
    raise failed[0]
assert total[0] == size, (total[0], size)
