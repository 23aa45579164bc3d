"""The benchmark of methods on little data: the answers agree, and every metric is there."""

import json

import pytest

from benchmarks.methods import Sizes, main


def test_reports_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick"], Sizes(rows=600, dim=32, queries=50, rounds=1))
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"mahalanobis_vs_pytorch_ood", "mahalanobis_vs_gemm", "knn_vs_faiss"} <= set(numbers)
    assert all(value > 0 for value in numbers.values())
