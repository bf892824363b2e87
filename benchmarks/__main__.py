"""`make bench`: the gateway alone on one core, the mock upstream and the load on another; authentication and durable
accounting on. Prints medians of several rounds; compare them only with figures of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.profile_top import top_ten
from benchmarks.rig import (
    GATEWAY_CORE,
    LOAD_CORE,
    Load,
    body_of,
    cpu_seconds,
    free_port,
    gateway_config,
    process,
    resident_kib,
    wait_until_answers,
    wrk,
)
from benchmarks.streams import first_token_median_ms, open_streams

CHUNKS = 100
OPEN_STREAMS = 1000


@contextlib.contextmanager
def gateway(upstream_port: int) -> Iterator[tuple[subprocess.Popen[bytes], int, float]]:
    """Start the gateway; give its process, HTTP port and seconds from start to the first answered request."""
    http_port, grpc_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = gateway_config(Path(directory), upstream_port, http_port, grpc_port)
        command = [sys.executable, "-m", "trunkline_cli.main", "serve", "--config", str(config)]
        start = time.perf_counter()
        with process(command, GATEWAY_CORE) as child:
            wait_until_answers(http_port, "/health/ready")
            yield child, http_port, time.perf_counter() - start


def _median(loads: list[Load]) -> Load:
    failed = sum(load.failed for load in loads)
    return Load(
        per_second=statistics.median(load.per_second for load in loads),
        p50_ms=statistics.median(load.p50_ms for load in loads),
        p99_ms=statistics.median(load.p99_ms for load in loads),
        failed=failed,
        requests=sum(load.requests for load in loads),
    )


def _section(title: str) -> None:
    print(f"\n{title}")


def bench_unary(port: int, pid: int, upstream: int, rounds: int, seconds: float) -> None:
    """Print requests/s and added latency at 1, 16 and 128 connections."""
    _section("unary chat completion    requests/s   CPU us   added p50 ms   added p99 ms   failed")
    for connections in (1, 16, 128):
        direct, through, cpu = [], [], 0.0
        for _ in range(rounds):
            direct.append(wrk(upstream, body_of("unary"), connections=connections, seconds=seconds / 2))
            before = cpu_seconds(pid)
            through.append(wrk(port, body_of("unary"), connections=connections, seconds=seconds))
            cpu += cpu_seconds(pid) - before
        bare, ours = _median(direct), _median(through)
        added_p50, added_p99 = ours.p50_ms - bare.p50_ms, ours.p99_ms - bare.p99_ms
        each_us = cpu / ours.requests * 1e6
        print(
            f"  {connections:>4} connections       {ours.per_second:>11,.0f}   {each_us:>6.0f}"
            f"   {added_p50:>12.2f}   {added_p99:>12.2f}   {ours.failed:>6}"
        )


def bench_streams(port: int, pid: int, upstream: int, rounds: int, seconds: float) -> None:
    """Print streamed tokens/s and the added time to the first token."""
    body = body_of("stream", stream=True)
    _section(f"streams of {CHUNKS} chunks, one write each        tokens/s   CPU us   failed")
    for connections in (16, 128):
        before = cpu_seconds(pid)
        load = _median([wrk(port, body, connections=connections, seconds=seconds) for _ in range(rounds)])
        cpu = (cpu_seconds(pid) - before) / load.requests / CHUNKS * 1e6
        tokens = load.per_second * CHUNKS
        print(f"  {connections:>4} connections                  {tokens:>14,.0f}   {cpu:>6.1f}   {load.failed:>6}")
    bare = asyncio.run(first_token_median_ms(upstream, body))
    ours = asyncio.run(first_token_median_ms(port, body))
    print(f"  first token, one stream at a time: {ours:.2f} ms, {ours - bare:.2f} ms of it added")


async def _memory_open(port: int, pid: int) -> int:
    writers = await open_streams(port, body_of("hold", stream=True), OPEN_STREAMS)
    resident = resident_kib(pid)
    for writer in writers:
        writer.close()
    return resident


def bench_memory(port: int, pid: int, idle_kib: int) -> None:
    """Print resident memory idle and with many open streams."""
    before = resident_kib(pid)
    opened = asyncio.run(_memory_open(port, pid))
    _section("memory")
    print(f"  idle after start: {idle_kib / 1024:.0f} MiB; after the load above: {before / 1024:.0f} MiB")
    each = (opened - before) / OPEN_STREAMS
    print(f"  with {OPEN_STREAMS:,} open streams: {opened / 1024:.0f} MiB, {each:.0f} KiB each")


def main() -> None:
    """Run every section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    upstream = free_port()
    with process([sys.executable, "-m", "benchmarks.mock_upstream", str(upstream)], LOAD_CORE):
        starts: list[float] = []
        for _ in range(options.rounds):
            with gateway(upstream) as (_, _, seconds):
                starts.append(seconds)
        with gateway(upstream) as (child, port, _):
            idle = resident_kib(child.pid)
            print(f"start to ready: {statistics.median(starts):.2f} s (median of {options.rounds})")
            bench_unary(port, child.pid, upstream, options.rounds, options.seconds)
            bench_streams(port, child.pid, upstream, options.rounds, options.seconds)
            bench_memory(port, child.pid, idle)
            for title, body in (("unary", body_of("unary")), ("streams", body_of("stream", stream=True))):
                _section(f"profile under {title}, 16 connections: share of samples, function (own time)")
                for share, name in top_ten(child.pid, port, body):
                    print(f"  {share:>6.1%}  {name}")


if __name__ == "__main__":
    main()
