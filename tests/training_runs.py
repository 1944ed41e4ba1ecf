"""Small training runs, in this process and in others that may be killed."""

import itertools
import multiprocessing
import os
import resource
import signal
import socket
import sys
from dataclasses import replace

import cv2
import numpy as np
import torch

from deqflow.io.flow_files import write_flow
from deqflow.training.checkpoint import StateStore
from deqflow.training.stages import STAGES
from deqflow.training.trainer import run


def small(output, stage="synthetic", **changes):
    """A run of a few seconds, unless told otherwise on procedural textures."""
    options = type(STAGES[stage])(
        stage=stage,
        model="deqflow-s-v0",  # of one scale: a step of all three is in test_scales.py
        output=output,
        train_steps=6,
        batch=2,
        height=64,
        width=64,
        solver_steps=(3, 4),
        validate_minutes=0.0,
        device="cpu",
        precision="float32",
    )
    return replace(options, **changes)


def arguments(options, *extra):
    """The same as a command line."""
    first, last = options.solver_steps
    named = {
        "model": options.model,
        "output": options.output,
        "train-steps": options.train_steps,
        "optimizer": options.optimizer,
        "batch": options.batch,
        "height": options.height,
        "width": options.width,
        "validate-minutes": options.validate_minutes,
        "save-minutes": options.save_minutes,
        "device": "cpu",
        "precision": "float32",
    }
    flat = [word for name, value in named.items() for word in (f"--{name}", str(value))]
    return ["--stage", options.stage, "--solver-steps", str(first), str(last), *flat, *extra]


def newest_state(output):
    """The newest whole state of a run's folder."""
    found = StateStore(output, keep=1).newest()
    assert found is not None
    return found[1]


def weights(output):
    """All weights of the newest state by name, and the state."""
    state = newest_state(output)
    return {**state["model"], **{f"average {k}": v for k, v in state["average"].items()}}, state


def assert_same_run(one, other):
    """Both folders hold the same newest state, to the bit."""
    (first, first_state), (second, second_state) = weights(one), weights(other)
    for name in ("step", "skipped", "progress"):
        assert first_state[name] == second_state[name]
    assert torch.equal(first_state["rng"], second_state["rng"])
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for mine, theirs in zip(moments(first_state), moments(second_state), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def moments(state):
    """What the optimizer of a state keeps of each parameter."""
    optimizer = state["optimizer"]
    parts = [optimizer["muon"], optimizer["adamw"]] if "muon" in optimizer else [optimizer]
    return [kept for part in parts for kept in part["state"].values()]


def footage(root, sequences=3, frames=4, size=(72, 88)):
    """Own footage as users lay it out: noise that moves by a whole pixel to the right."""
    rng = np.random.default_rng(0)
    flow = np.zeros((*size, 2), np.float32)
    flow[..., 0] = 1
    for sequence in range(sequences):
        folder = f"clip{sequence}"
        for part in ("frames", "flow"):
            (root / part / folder).mkdir(parents=True)
        wide = cv2.GaussianBlur(rng.integers(0, 256, (size[0], size[1] + frames, 3), np.uint8), (0, 0), 1.5)
        for index in range(frames):
            left = frames - index
            image = wide[:, left : left + size[1]]
            cv2.imwrite(str(root / "frames" / folder / f"{index:03d}.png"), image)
            if index + 1 < frames:
                write_flow(root / "flow" / folder / f"{index:03d}.flo", flow)
    return root


# Children of a server that has imported everything start in no time, and never saw this process's threads.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["deqflow.training.trainer", "torch._dynamo", "training_runs"])
WATCHED = {"open", "os.rename", "os.remove"}


def start(options, *, what=run, die_at=None, largest_file=None, environment=None, own_group=False):
    """The run, or what else takes its options, in a process of its own.

    It kills itself before the given touch of a file in its folder, or cannot write beyond so many bytes. In a
    group of its own, of its process number, it can be sent signals together with its workers.
    """
    process = _server.Process(
        target=_child, args=(options, what, die_at, largest_file, environment or {}, own_group)
    )
    process.start()
    return process


def start_several(options, count=2, *, die_at=None, other=None):
    """The run as several processes, as torchrun would start them; rank 0 may kill itself, others differ."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    return [
        start(
            options if rank == 0 or other is None else other,
            die_at=die_at if rank == 0 else None,
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def finish(*processes, seconds=300):
    """Wait for the processes and return their exit codes; when one has died, the others are killed."""
    for process in processes:
        process.join(seconds)
        lasting = process.exitcode is None
        if process.exitcode != 0:
            for other in processes:
                other.kill()
                other.join()
        assert not lasting, f"a process has not ended after {seconds} seconds"
    return [process.exitcode for process in processes]


def _child(options, what, die_at, largest_file, environment, own_group):
    os.environ.update(environment)
    if own_group:
        os.setpgrp()
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    touches = itertools.count()

    def watch(event, details):
        if event in WATCHED and str(options.output) in str(details) and next(touches) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    if die_at is not None:
        sys.addaudithook(watch)
    what(options)
