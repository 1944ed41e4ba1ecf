"""Evaluations in processes of their own: shared by torchrun, interrupted by a signal, watched for memory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluation_data import write_benchmarks, write_pair

from deqflow.cli import main
from deqflow.evaluation.results import read_samples

REPOSITORY = Path(__file__).resolve().parent.parent
QUICK = ("--steps", "2", "--precision", "float32", "--device", "cpu")

pytestmark = pytest.mark.slow


def start(*command: object) -> subprocess.Popen[str]:
    """A process that can import the checkout, one thread each."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *map(str, command)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == code, errors
    return output


def without_times(value):
    """A summary apart from how long things took."""
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("start_option", [(), ("--reuse",)])
def test_two_processes_give_what_one_gives_to_the_last_digit(tmp_path, start_option):
    write_benchmarks(tmp_path / "data")
    options = ["--data", str(tmp_path / "data"), *QUICK, *start_option]
    assert main(["evaluate", *options, "--output", str(tmp_path / "one")]) == 0
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    two = start(
        *launcher,
        REPOSITORY / "evaluate.py",
        *options,
        "--output",
        tmp_path / "two",
        "--json",
        tmp_path / "two.json",
    )
    table = finish(two)
    assert table.count("**KITTI (2)**") == 1
    one, shared, told = (
        without_times(json.loads(file.read_text()))
        for file in (
            tmp_path / "one" / "summary.json",
            tmp_path / "two" / "summary.json",
            tmp_path / "two.json",
        )
    )
    assert shared == one == told
    alone, together = (
        [
            (result.key, result.regions, result.steps)
            for result in read_samples(tmp_path / name / "samples.jsonl")
        ]
        for name in ("one", "two")
    )
    assert together == alone
    assert not list((tmp_path / "two").glob("samples.*.jsonl"))


def test_a_signal_leaves_a_table_that_the_same_command_goes_on_from(tmp_path):
    data = tmp_path / "FlyingChairs_release" / "data"
    link_pairs(data, 100)
    out = tmp_path / "out"
    command = (REPOSITORY / "evaluate.py", "--data", tmp_path, *QUICK, "--baselines", "zero")
    command = (*command, "--output", out)
    process = start(*command)
    table = out / "samples.jsonl"
    for _ in range(6000):
        if process.poll() is not None or (table.exists() and table.read_bytes().count(b"\n") > 20):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    finish(process, 130)
    before = table.read_bytes()
    rows = list(read_samples(table))
    assert 20 <= len(rows) < 200 and before.endswith(b"\n")
    finish(start(*command))
    assert len({result.key for result in read_samples(table)}) == 200
    assert set(before.splitlines()) <= set(table.read_bytes().splitlines())


def test_memory_does_not_grow_with_the_data(tmp_path, capsys):
    """The samples alone would be 30 MB."""
    link_pairs(tmp_path / "FlyingChairs_release" / "data", 500, size=(64, 64))
    peaks = {}
    for pairs in (10, 500):
        process = start(
            "-c",
            "import resource, sys; from deqflow.cli import main; assert main(sys.argv[1:]) == 0; "
            "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)",
            *(
                "evaluate",
                "--data",
                tmp_path,
                "--limit",
                pairs,
                *QUICK,
                "--model",
                "deqflow-s-v0",
                "--batch",
                4,
                "--baselines",
                "zero",
            ),
            *("--output", tmp_path / str(pairs)),
        )
        (peak,) = re.findall(r"^peak (\d+)$", finish(process), re.MULTILINE)
        peaks[pairs] = int(peak) / 1024
    with capsys.disabled():
        print(f"\npeak memory of 10 pairs {peaks[10]:.0f} MiB, of 500 pairs {peaks[500]:.0f} MiB")
    assert peaks[500] < peaks[10] + 11


def link_pairs(data: Path, count: int, size: tuple[int, int] = (32, 32)) -> None:
    """One pair of FlyingChairs under many numbers."""
    names = ("flow.flo", "img1.ppm", "img2.ppm")
    write_pair(*(data / f"00001_{name}" for name in names), size=size)
    for number in range(2, count + 1):
        for name in names:
            os.link(data / f"00001_{name}", data / f"{number:05d}_{name}")
