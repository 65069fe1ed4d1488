#!/bin/sh
# A file that s3fs has open for reading fetches 50 MiB with its first byte, and holds them.
#
# Guess:      blocks of 5 MiB, as in s3fs for years and in other filesystems of fsspec, so that a server that streams
#             100 large files at once holds 500 MB.
# Behaviour:  the built-in block is 50 MiB, and the default cache, "readahead", fetches what is read and a block more in
#             one request: after read(1) the file holds 52428801 bytes, so that 100 such files hold 5 GB. A block size
#             that is given to open() is what it reads ahead then; other filesystems have kept 5 MiB.
# Versions:   s3fs 2026.9.0, fsspec 2026.9.0, moto 5.2.5 as the server, Python 3.11.
# Date:       2026-11-30
# Output:     s3fs, read(1): 52428801 bytes fetched, 52428801 held
#             s3fs, read(1) with block_size=1 MiB: 1048577 bytes fetched, 1048577 held
#             fsspec's default block: 5242880
#
# Exits with 1 when the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    s3fs==2026.9.0 fsspec==2026.9.0 'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5
cat > "$folder/read.py" <<'PYTHON'
import os

from moto.server import ThreadedMotoServer

os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()

import boto3
import s3fs
from fsspec.spec import AbstractBufferedFile

address = f"http://{host}:{port}"
client = boto3.client("s3", endpoint_url=address)
client.create_bucket(Bucket="bucket")
client.put_object(Bucket="bucket", Key="large", Body=bytes(64 << 20))
fs = s3fs.S3FileSystem(endpoint_url=address)
for words, options in (("", {}), (" with block_size=1 MiB", {"block_size": 1 << 20})):
    with fs.open("bucket/large", "rb", **options) as file:
        file.read(1)
        fetched, held = file.cache.total_requested_bytes, len(file.cache.cache)
        print(f"s3fs, read(1){words}: {fetched} bytes fetched, {held} held")
print(f"fsspec's default block: {AbstractBufferedFile.DEFAULT_BLOCK_SIZE}")
server.stop()
PYTHON
"$folder/venv/bin/python" "$folder/read.py" 2> "$folder/log" | tee "$folder/output"
cmp - "$folder/output" <<'OUTPUT'
s3fs, read(1): 52428801 bytes fetched, 52428801 held
s3fs, read(1) with block_size=1 MiB: 1048577 bytes fetched, 1048577 held
fsspec's default block: 5242880
OUTPUT
