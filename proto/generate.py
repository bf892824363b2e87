"""Generate the Python code of the contract beside each .proto file; `make gen` runs it, CI fails on a change.

Writes `_pb2.py` and `_pb2.pyi` for every file and `_pb2_grpc.py`/`.pyi` for files with a service only.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent


def main() -> int:
    """Return protoc's exit status."""
    protos = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.proto"))
    for stale in ROOT.rglob("*_pb2*.py*"):
        stale.unlink()
    outputs = [f"--{kind}_out={ROOT}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *outputs, *map(str, protos)]
    status = subprocess.run(command, cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True)
    if status.returncode:
        sys.stderr.write(status.stderr)
    for proto in protos:
        if "\nservice " not in (ROOT / proto).read_text():
            for suffix in (".py", ".pyi"):
                (ROOT / proto).with_name(f"{proto.stem}_pb2_grpc{suffix}").unlink(missing_ok=True)
    return status.returncode


if __name__ == "__main__":
    sys.exit(main())
