#!/bin/sh
# numpy.save on a disk without room raises an OSError without an error number; numpy.savez raises one with it.
#
# Guess:      both raise OSError with the errno of the failed write (ENOSPC, or here EFBIG from a limit on file sizes), so
#             that `error.errno == errno.ENOSPC` recognizes a full disk.
# Behaviour:  numpy.save and ndarray.tofile write with C's fwrite and count what was written: the OSError has the errno
#             None, no cause, and the text "N requested and M written". numpy.savez writes through Python's file object,
#             and its OSError has the number. A program that looks at errno alone takes a full disk for another failure.
# Versions:   numpy 2.4.6, Python 3.11. The limit on file sizes (ulimit -f) stands for a full disk, which needs root.
# Date:       2026-11-30
# Output:     numpy.save: OSError, errno None, cause None, counts what was written: True
#             numpy.savez: OSError, errno EFBIG, cause None, counts what was written: False
#             ndarray.tofile: OSError, errno None, cause None, counts what was written: True
#
# Exits with 1 when the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6
cat > "$folder/save.py" <<'PYTHON'
import errno
import re
import resource
import sys

import numpy as np

folder, array = sys.argv[1], np.zeros(1 << 18)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
calls = {
    "numpy.save": lambda: np.save(f"{folder}/a.npy", array),
    "numpy.savez": lambda: np.savez(f"{folder}/a.npz", a=array),
    "ndarray.tofile": lambda: array.tofile(f"{folder}/a"),
}
for name, call in calls.items():
    try:
        call()
    except Exception as error:
        number = errno.errorcode.get(getattr(error, "errno", None))
        counts = re.fullmatch(r"\d+ requested and \d+ written", str(error)) is not None
        kind, cause = type(error).__name__, error.__cause__
        print(f"{name}: {kind}, errno {number}, cause {cause}, counts what was written: {counts}")
PYTHON
"$folder/venv/bin/python" "$folder/save.py" "$folder" | tee "$folder/output"
cmp - "$folder/output" <<'OUTPUT'
numpy.save: OSError, errno None, cause None, counts what was written: True
numpy.savez: OSError, errno EFBIG, cause None, counts what was written: False
ndarray.tofile: OSError, errno None, cause None, counts what was written: True
OUTPUT
