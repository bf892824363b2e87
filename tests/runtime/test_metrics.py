"""Counters in Prometheus' format: closed labels, right sums, over several processes too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.runtime.metrics import Metrics, MetricsPublisher


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"trunkline_{name}", tuple(sorted(labels.items()))))


def test_a_request_is_counted_with_its_times_and_tokens() -> None:
    metrics = Metrics(models=["gpt"], deployments=["gpt/0"])
    numbers = metrics.request("chat", "gpt")
    numbers.begin()
    assert value(metrics, "requests_in_flight", operation="chat", model="gpt") == 1
    metrics.attempt("gpt/0", "UPSTREAM_TIMEOUT")
    metrics.attempt("gpt/0", "OK")
    numbers.end("completed", 1.5, 0.2)
    numbers.add_tokens(100, 20, 80, None)
    labels = {"operation": "chat", "model": "gpt"}
    assert value(metrics, "requests_in_flight", **labels) == 0
    assert value(metrics, "requests_total", **labels, outcome="completed") == 1
    assert value(metrics, "requests_total", **labels, outcome="failed") == 0
    assert value(metrics, "request_seconds_sum", **labels) == 1.5
    assert value(metrics, "request_seconds_count", **labels) == 1
    assert value(metrics, "request_seconds_bucket", **labels, le="1.0") == 0
    assert value(metrics, "request_seconds_bucket", **labels, le="2.5") == 1
    assert value(metrics, "request_seconds_bucket", **labels, le="+Inf") == 1
    assert value(metrics, "first_token_seconds_sum", **labels) == 0.2
    kinds = {"input": 100, "input_cached": 80, "output": 20, "output_reasoning": 0}
    for kind, tokens in kinds.items():
        assert value(metrics, "tokens_total", **labels, kind=kind) == tokens
    assert value(metrics, "attempts_total", deployment="gpt/0", reason="UPSTREAM_TIMEOUT") == 1
    assert value(metrics, "attempts_total", deployment="gpt/0", reason="OK") == 1


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, "0.01"), (0.01, "0.01"), (300.0, "300.0"), (301.0, "+Inf")])
def test_a_time_on_a_bound_counts_as_below_it(seconds: float, bucket: str) -> None:
    metrics = Metrics(models=["gpt"])
    numbers = metrics.request("chat", "gpt")
    numbers.begin()
    numbers.end("completed", seconds)
    found = [
        dict(labels)["le"]
        for (name, labels), count in samples(metrics).items()
        if name == "trunkline_request_seconds_bucket" and count == 1
    ]
    assert found[0] == bucket
    assert value(metrics, "first_token_seconds_count", operation="chat", model="gpt") == 0


def test_unknown_names_are_counted_as_other() -> None:
    metrics = Metrics(models=["gpt"], deployments=["gpt/0"])
    for model in ("made-up-1", "made-up-2"):
        numbers = metrics.request("chat", model)
        numbers.begin()
        numbers.end("made-up", 1.0)
        metrics.attempt(model, model)
    assert value(metrics, "requests_total", operation="chat", model="other", outcome="other") == 2
    assert value(metrics, "attempts_total", deployment="other", reason="other") == 2
    assert b"made-up" not in metrics.render()


def test_the_number_of_series_is_bounded_whatever_the_configuration() -> None:
    metrics = Metrics(models=(f"m{number}" for number in range(10_000)))
    for number in range(10_000):
        metrics.request("chat", f"m{number}")
    families = {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}
    assert len(families["trunkline_requests_in_flight"].samples) == 201


def test_a_gauge_is_read_when_it_is_asked_for() -> None:
    metrics = Metrics()
    held = [1.0]
    metrics.gauge("journal_bytes", "Bytes not shipped yet.", lambda: held[0])
    assert value(metrics, "journal_bytes") == 1
    held[0] = 7
    assert value(metrics, "journal_bytes") == 7


def test_two_metrics_share_nothing() -> None:
    first, second = Metrics(models=["gpt"]), Metrics(models=["gpt"])
    first.request("chat", "gpt").begin()
    assert value(second, "requests_in_flight", operation="chat", model="gpt") is None


def worker(directory: Path, requests: int) -> Metrics:
    metrics = Metrics(models=["gpt"], directory=directory)
    metrics.gauge("journal_bytes", "Bytes.", lambda: requests)
    numbers = metrics.request("chat", "gpt")
    for _ in range(requests):
        numbers.begin()
        numbers.end("completed", 1.0, 0.1)
    numbers.begin()
    return metrics


def test_the_numbers_of_all_processes_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = worker(tmp_path, 2), worker(tmp_path, 3)
    for metrics in (first, second):
        metrics.publish(metrics.snapshot())
    labels = {"operation": "chat", "model": "gpt"}
    for metrics in (first, second):
        assert value(metrics, "requests_total", **labels, outcome="completed") == 5
        assert value(metrics, "request_seconds_bucket", **labels, le="1.0") == 5
        assert value(metrics, "requests_in_flight", **labels) == 2
        assert value(metrics, "journal_bytes") == 5
    # The second went silent: what it counted stays, what it was doing does not.
    monkeypatch.setattr("services.runtime.metrics._FRESH_SECONDS", -1.0)
    assert value(first, "requests_total", **labels, outcome="completed") == 5
    assert value(first, "requests_in_flight", **labels) == 1


async def test_a_publisher_publishes_often_and_at_its_end(tmp_path: Path) -> None:
    publishing, asked = Metrics(models=["gpt"], directory=tmp_path), Metrics(models=["gpt"], directory=tmp_path)
    publisher = MetricsPublisher(publishing, seconds=0.01)
    await publisher.start()
    labels = {"operation": "chat", "model": "gpt"}
    publishing.request("chat", "gpt").begin()
    async with asyncio.timeout(5):
        while value(asked, "requests_in_flight", **labels) != 1:
            await asyncio.sleep(0.01)
    publishing.request("chat", "gpt").begin()
    await publisher.close()
    assert value(asked, "requests_in_flight", **labels) == 2
    await publisher.close()


async def test_without_a_directory_publishing_does_nothing() -> None:
    publisher = MetricsPublisher(Metrics())
    await publisher.start()
    await publisher.close()
