"""fastsafetensor-3fs-reader, its C++ backend, loads a safetensors file from a 3FS: bytes equal?

Usage: consumer.py MOUNT
"""
import ctypes
import json
import random
import struct
import sys
from pathlib import Path

import fastsafetensor_3fs_reader as package

mount = Path(sys.argv[1])
assert package.get_backend() == "cpp", package.get_backend()

# Three tensors, one of them longer than the reader's buffer.
rng = random.Random(8)
sizes = {"embed": (1000, 512), "bias": (7,), "head": (3000, 1024)}
header, blobs, offset = {}, [], 0
for name, shape in sizes.items():
    count = 1
    for side in shape:
        count *= side
    blobs.append(rng.randbytes(4 * count))
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * count]}
    offset += 4 * count
text = json.dumps(header).encode()
file = mount / "model.safetensors"
file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))

BUFFER = 4 << 20
reader = package.ThreeFSFileReader(mount_point=str(mount), entries=64, io_depth=0, buffer_size=BUFFER)
found, length, size = reader.read_headers_batch([str(file)])[str(file)]
assert json.loads(found) == json.loads(text), found
assert size == file.stat().st_size, (size, file.stat().st_size)
first = size - sum(map(len, blobs))
assert length in (len(text), first), length
for (name, about), expected in zip(header.items(), blobs):
    start, end = about["data_offsets"]
    data = bytearray()
    while start + len(data) < end:
        # Without a GPU the bytes stay in the shared buffer.
        count = min(BUFFER, end - start - len(data))
        done = reader.read_chunked(str(file), 0, first + start + len(data), count, count, False)
        assert done == count, (name, done, count)
        data += ctypes.string_at(reader.iov_base, count)
    assert data == expected, f"{name} differs"
reader.close()
print("ok")
