"""The CPU profile's top ten, by py-spy: which Python functions hold the interpreter, C code called by them included."""

from __future__ import annotations

import collections
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.rig import wrk


def _py_spy() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def top_ten(pid: int, port: int, body: str, seconds: int = 6) -> list[tuple[float, str]]:
    """Return (share of samples, function) of the ten hottest functions under load, own time; empty without py-spy."""
    spy = _py_spy()
    if spy is None:
        return []
    with tempfile.NamedTemporaryFile(suffix=".txt") as out:
        command = [spy, "record", "--gil", "--function", "-p", str(pid), "-d", str(seconds), "-r", "200", "-f", "raw"]
        command += ["-o", out.name]
        recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wrk(port, body, connections=16, seconds=seconds + 1)
            recorder.wait(30)
        finally:
            recorder.kill()
            recorder.wait()
        stacks = Path(out.name).read_text().splitlines()
    own: collections.Counter[str] = collections.Counter()
    for line in stacks:
        stack, _, samples = line.rpartition(" ")
        own[stack.rsplit(";", 1)[-1]] += int(samples)
    total = sum(own.values()) or 1
    return [(samples / total, name) for name, samples in own.most_common(10)]
