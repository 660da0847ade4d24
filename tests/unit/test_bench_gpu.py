"""The GPU benchmark, on a CPU: that each part gives its figures, and that what cannot be measured is named."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    import bench_gpu

    return bench_gpu


TINY = Namespace(
    device="cpu", grid=[32, 32, 32], steps=1, latents=50, scans=20, permutations=3, compile=False, recompute=False
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "figures"),
    [
        ("batch 1", {"steps_per_second", "decodings_per_second", "share_of_peak", "megavoxels_a_second"}),
        ("volumes", {"cubic_warps_a_second", "registrations_a_second", "counterfactuals_a_second"}),
        ("statistics", {"fit_s", "permutations_s"}),
    ],
)
def test_each_part_gives_its_figures(bench, part, figures):
    found = bench.PARTS[part](TINY)
    assert figures <= found.keys()
    assert all(value > 0 for value in found.values())


def run(bench, monkeypatch, output: Path, *more: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--device", "cpu", "--output", str(output), *more])
    bench.main()
    return json.loads(output.read_text())


def test_what_finds_no_time_is_named_and_the_rest_is_kept(bench, monkeypatch, tmp_path):
    def part(name: str, seconds_left: float, figures: dict) -> None:
        if name == "volumes":
            return whole_part(name, 0.0, figures)
        figures["parts"][name] = {"fit_s": 1.0}
        return None

    whole_part = bench.run_part
    monkeypatch.setattr(bench, "run_part", part)
    found = run(bench, monkeypatch, tmp_path / "gpu.json", "--parts", "statistics", "volumes", "batch 1")
    assert found["left_out"] == {"volumes": "no time was left"}
    assert found["parts"].keys() == {"statistics", "batch 1"}


@pytest.mark.slow
def test_a_part_that_fails_says_why(bench, monkeypatch, tmp_path):
    found = run(bench, monkeypatch, tmp_path / "gpu.json", "--parts", "batch 1", "--grid", "30", "32", "32")
    assert "30×32×32 is not a multiple of 4" in found["left_out"]["batch 1"]


def test_without_a_gpu_it_says_so(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--output", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit, match="sees no GPU"):
        bench.main()
