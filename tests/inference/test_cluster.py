"""Tasks on other processes: all are done once, whatever workers do, and nothing is open to others."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
import torch
import typer
import yaml

from pixelwise.bundle import Bundle
from pixelwise.cli.predict import predict_verb
from pixelwise.config import RuntimeConfig
from pixelwise.errors import DataError, Finding, MissingExtraError, OutputError, UsageError
from pixelwise.inference import cluster as module
from pixelwise.inference.cluster import LostClusterError, OnDask, local_cluster, remote_cluster, threads_of_worker
from pixelwise.inference.large import load_predictor
from pixelwise.inference.large_plan import LargeJob, Wish, plan_large
from pixelwise.inference.runners import Outcome
from pixelwise.runtime import LackOfMemoryError

dask = pytest.importorskip("dask")
dask_scheduler = pytest.importorskip("distributed.cli.dask_scheduler")
dask_worker = pytest.importorskip("distributed.cli.dask_worker")
DASK = [sys.executable, "-m", "dask"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[OnDask]:
    with local_cluster(2) as found:
        yield found


# Work for workers: each can be sent to another process


def square(task: int) -> int:
    return task**2


def process(task: float) -> int:
    time.sleep(task)
    return os.getpid()


def note(folder: Path, work: Callable[[int], object], task: int) -> object:
    """Leave a trace of each time that a task is begun."""
    with (folder / str(task)).open("a") as file:
        file.write(".")
    return work(task)


def fail(task: int) -> None:
    raise KeyError(task)


def refuse(task: int) -> None:
    raise DataError(f"task {task}", [Finding(file=Path("a.png"), found="b", rule="c", fix="d")])


def die_of_three(task: int) -> int:
    if task == 3:
        os._exit(1)
    time.sleep(0.05)
    return task


def fail_twice(folder: Path, task: int) -> int:
    if (folder / str(task)).stat().st_size < 3:
        raise OSError(task)
    return task


def lack(error: Exception, task: int) -> None:
    raise error


def predictor_of(job: LargeJob, task: int) -> tuple[int, int, int, int]:
    predictor = load_predictor(job)
    return os.getpid(), id(predictor), torch.get_num_threads(), load_predictor.cache_info().misses


def begun(folder: Path) -> dict[int, int]:
    return {int(path.name): path.stat().st_size for path in folder.iterdir()}


# Outcomes


@pytest.mark.parametrize("count", [0, 1, 3, 4, 50])
def test_all_tasks_are_done_once(cluster: OnDask, tmp_path: Path, count: int) -> None:
    outcomes = list(cluster.run(partial(note, tmp_path, square), range(count)))
    assert sorted(outcome.task for outcome in outcomes) == list(range(count))
    assert all(outcome == Outcome(outcome.task, outcome.task**2) for outcome in outcomes)
    assert begun(tmp_path) == dict.fromkeys(range(count), 1)


def test_outcomes_come_as_they_finish_and_on_all_workers(cluster: OnDask) -> None:
    tasks = [1.0, *(0.01 * place for place in range(1, 9))]
    outcomes = list(cluster.run(process, tasks))
    assert outcomes[0].task != 1.0
    assert {outcome.task for outcome in outcomes} == set(tasks)
    assert len({outcome.result for outcome in outcomes}) == cluster.workers == 2


def test_no_more_than_two_per_worker_are_under_way(cluster: OnDask, tmp_path: Path) -> None:
    outcomes = cluster.run(partial(note, tmp_path, square), range(40))
    seen = [(len(begun(tmp_path)), place) for place, _ in enumerate(outcomes)]
    assert all(count <= place + 4 for count, place in seen)
    assert begun(tmp_path) == dict.fromkeys(range(40), 1)


def test_a_failure_is_tried_three_times_and_a_refusal_once(cluster: OnDask, tmp_path: Path) -> None:
    for name, work, text, times in (
        ("failed", fail, "KeyError: {}", 3),
        ("refused", refuse, "task {}\n  a.png: b; rule: c; fix: d", 1),
    ):
        folder = tmp_path / name
        folder.mkdir()
        outcomes = list(cluster.run(partial(note, folder, work), range(7)))
        assert sorted(outcome.task for outcome in outcomes) == list(range(7))
        assert all(outcome.failure == text.format(outcome.task) for outcome in outcomes)
        assert begun(folder) == dict.fromkeys(range(7), times)


def test_the_third_attempt_may_succeed(cluster: OnDask, tmp_path: Path) -> None:
    outcomes = list(cluster.run(partial(note, tmp_path, partial(fail_twice, tmp_path)), range(4)))
    assert sorted(outcome.result for outcome in outcomes) == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [OutputError("the disk is full"), LackOfMemoryError("too little")])
def test_what_no_next_task_mends_ends_the_work(cluster: OnDask, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        list(cluster.run(partial(lack, error), range(30)))
    assert next(cluster.run(square, [3])) == Outcome(3, 9)


def test_what_is_not_wanted_any_more_is_not_begun(cluster: OnDask, tmp_path: Path) -> None:
    outcomes = cluster.run(partial(note, tmp_path, process), [1] * 40)
    next(outcomes)
    outcomes.close()
    assert begun(tmp_path)[1] <= 5


def test_a_task_with_which_workers_die_is_named_and_no_other(cluster: OnDask, tmp_path: Path) -> None:
    outcomes = {outcome.task: outcome for outcome in cluster.run(partial(note, tmp_path, die_of_three), range(12))}
    assert outcomes.pop(3) == Outcome(3, failure="3 workers died with it")
    assert outcomes == {task: Outcome(task, task) for task in range(12) if task != 3}
    assert begun(tmp_path)[3] == 3
    assert len(list(cluster.run(square, range(9)))) == 9


def test_another_version_is_refused(cluster: OnDask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "__version__", "9.9")
    (outcome,) = cluster.run(square, [3])
    assert "a worker has pixelwise 0" in outcome.failure
    assert "not 9.9; install the same version everywhere" in outcome.failure


def test_a_model_is_loaded_once_per_worker_with_the_threads_of_the_job(
    cluster: OnDask, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle()
    bundle.save(tmp_path / "model.safetensors")
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((40, 50), np.uint8))
    runtime = RuntimeConfig(device="cpu", precision="fp32", threads=1)
    wish = Wish(source=tmp_path / "image.tif", model=tmp_path / "model.safetensors", store=tmp_path / "o.zarr")
    job, _ = plan_large(replace(wish, runtime=runtime))
    job = replace(job, runtime=RuntimeConfig(device="cpu", precision="fp32", threads=3))
    found = [outcome.result for outcome in cluster.run(partial(predictor_of, job), range(12))]
    assert len(set(found)) <= 2  # of each process, the same network in all its tasks
    assert {threads for _, _, threads, _ in found} == {3}
    assert {misses for _, _, _, misses in found} == {1}


# The processes


def test_nothing_listens_beyond_this_machine(cluster: OnDask) -> None:
    me = psutil.Process()
    family = [me, *me.children(recursive=True)]
    open_ports = [port for one in family for port in one.net_connections(kind="inet") if port.status == "LISTEN"]
    assert len(open_ports) >= 3  # the scheduler and two workers
    assert {port.laddr.ip for port in open_ports} == {"127.0.0.1"}
    for path in ("status", "metrics", "info/main/workers.html", "json/counts.json", "health"):
        assert not any(answers(port.laddr.port, path) for port in open_ports), path


def answers(port: int, path: str) -> bool:
    """Whether a web page is there."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.settimeout(0.3)
        try:
            connection.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
            return b" 200 " in connection.recv(100)
        except OSError:
            return False


def test_the_workers_end_with_the_cluster_whatever_they_do() -> None:
    environment = dict(os.environ)
    with local_cluster(1) as one:
        (nanny,) = one.client.cluster.workers.values()
        worker = psutil.Process(nanny.pid)
        one.client.submit(time.sleep, 60)
        time.sleep(0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert dict(os.environ) == environment
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("workers", [0, -1])
def test_no_worker_is_refused(workers: int) -> None:
    with pytest.raises(UsageError, match=f"{workers} workers: give at least 1"), local_cluster(workers):
        pass


def test_workers_that_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_START", 0.001)
    with pytest.raises(LostClusterError, match=r"1 workers did not start within 0\.001 seconds"), local_cluster(1):
        pass


def test_without_dask_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    for opened in (local_cluster(1), remote_cluster("tcp://127.0.0.1:1")):
        with pytest.raises(MissingExtraError, match=r"pixelwise\[dask\]"), opened:
            pass


@pytest.mark.parametrize(("workers", "threads"), [(0, 8), (1, 8), (3, 2), (8, 1), (9, 1)])
def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, workers: int, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert threads_of_worker(workers) == threads


# A scheduler elsewhere


@pytest.mark.parametrize("address", ["nowhere", "http://127.0.0.1:80", "tls://127.0.0.1:8786", "tcp://127.0.0.1:1"])
def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_CONNECT", 0.5)
    with pytest.raises(UsageError, match=rf"no Dask scheduler answers at {address} \("), remote_cluster(address):
        pass


def test_workers_may_come_late_and_the_scheduler_may_go(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    quiet = {"stderr": subprocess.DEVNULL, "cwd": tmp_path}
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    worker = [*DASK, "worker", address, *local, "--nthreads", "1", "--memory-limit", "0", "--no-nanny"]
    scheduler = subprocess.Popen([*DASK, "scheduler", *local, "--port", address.rpartition(":")[2]], **quiet)
    workers = [subprocess.Popen(worker, **quiet)]
    try:
        with remote_cluster(address) as found:
            outcomes = found.run(time.sleep, [0.1] * 2000)
            assert next(outcomes) == Outcome(0.1)
            assert found.workers == 1
            workers.append(subprocess.Popen(worker, **quiet))
            while found.workers < 2:
                next(outcomes)
            scheduler.kill()
            with pytest.raises(LostClusterError, match=rf"{address} is gone; start it again"):
                list(outcomes)
    finally:
        for one in (scheduler, *workers):
            one.kill()
            one.wait()
    assert capfd.readouterr().err == ""


# The page for users


def blocks(language: str) -> list[str]:
    page = Path(__file__).resolve().parents[2] / "docs" / "clusters.md"
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_the_commands_of_the_page_exist() -> None:
    (script,) = blocks("sbatch")
    manifests = [manifest for manifest in yaml.safe_load_all(blocks("yaml")[1]) if manifest]
    lines = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    lines += [shlex.split(line, comments=True) for line in script.replace("\\\n", " ").splitlines()]
    for pods in (manifest["spec"].get("template") for manifest in manifests):
        lines += [container["command"] for container in pods["spec"]["containers"]] if pods else []
    used = Counter(check_options(words[words.index(first) :]) for words in lines for first in STARTS & set(words))
    assert used == {"pixelwise predict": 4, "dask scheduler": 2, "dask worker": 2}


STARTS = {"pixelwise", "dask"}


def check_options(words: list[str]) -> str:
    """The program and its verb, after every option of it was found to be one."""
    verb = f"{words[0]} {words[1]}"
    command = {
        "pixelwise predict": predict_command(),
        "dask scheduler": dask_scheduler.main,
        "dask worker": dask_worker.main,
    }[verb]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word for word in words[2:] if word.startswith("-")} <= known
    return verb


def predict_command() -> Any:
    app = typer.Typer()
    app.command()(predict_verb)
    return typer.main.get_command(app)


def test_the_scripts_of_the_page_can_be_read() -> None:
    subprocess.run(["bash", "-n"], input=blocks("sbatch")[0], text=True, check=True)
    security, manifests = blocks("yaml")
    described = dask.config.get("distributed.comm.tls")
    given = yaml.safe_load(security)["distributed"]["comm"]
    assert given.keys() - {"tls"} <= dask.config.get("distributed.comm").keys()
    assert given["tls"].keys() <= described.keys()
    kinds = Counter(manifest["kind"] for manifest in yaml.safe_load_all(manifests))
    assert kinds == {"Service": 1, "Deployment": 2, "Job": 1, "NetworkPolicy": 1}
