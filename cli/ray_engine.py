"""Workers of a Ray cluster, or of a Ray that is started on this machine for the run."""

import logging
import os
import signal
import socket
import threading
from concurrent.futures import Future
from importlib import import_module
from math import ceil
from typing import Any

from ulcodec.errors import DeviceError, MissingPackageError
from ulcodec.io.places import reason_of
from ulcodec_cli.common import say
from ulcodec_cli.engines import Chunk, Finished, Started, Worker
from ulcodec_cli.work import Task

CONNECT_S = 10.0
"""How long to wait for a cluster to answer."""


class RayEngine:
    """Actors, each with a share of CPUs and a GPU. They come from the cluster at RAY_ADDRESS if it is set.

    `n_workers`: at most; None for as many as the cluster has CPUs for, or GPUs where they are used. Each has the CPUs
    that the task has threads, one by default. The device cuda takes GPUs, and so does auto if the cluster has any; more
    workers than GPUs share them evenly. Raises MissingPackageError without Ray, DeviceError without room.
    """

    def __init__(self, task: Task, n_workers: int | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray: Any = import_module("ray")
        except ImportError as error:
            raise MissingPackageError('--engine ray needs a package: pip install "ulcodec[ray]"') from error
        self.ray = ray
        self.is_own = not ray.is_initialized()
        if self.is_own:
            start(ray)
        self.task, self.n_threads = task, task.model.threads or 1
        resources = ray.cluster_resources()
        n_gpus = int(resources.get("GPU", 0))
        has_gpu = task.model.device.startswith("cuda") or (task.model.device == "auto" and n_gpus > 0)
        room = int(resources.get("CPU", 0)) // self.n_threads
        if not room or (has_gpu and not n_gpus):
            needs = f"{self.n_threads} CPUs and a GPU" if has_gpu else f"{self.n_threads} CPUs"
            raise DeviceError(f"the Ray cluster has no room for a worker of {needs}")
        if n_workers is not None and n_workers > room:
            say(f"ulcodec: warning: the Ray cluster has room for {room} workers, not {n_workers}", err=True)
        self.n_workers = min(room, n_workers or (n_gpus if has_gpu else room))
        n_gpus_each = 1 / ceil(self.n_workers / n_gpus) if has_gpu else 0
        self.options = {"num_cpus": self.n_threads, "num_gpus": n_gpus_each, "max_restarts": 0}

    def new(self) -> "RayHandle":
        actor = self.ray.remote(Worker).options(**self.options).remote(self.task, self.n_threads)
        return RayHandle(self.ray, actor)

    def close(self) -> None:
        if self.is_own:
            self.ray.shutdown()


def start(ray: Any) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start Ray here. Raises DeviceError."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if host and port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # Ray raises anything
        place = f"no Ray cluster at RAY_ADDRESS={address}" if address else "Ray does not start"
        raise DeviceError(f"{place}: {reason_of(error)}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # that of Ray ends the process at once, with a trace


class RayHandle:
    """An actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor

    def start(self) -> "Future[Started]":
        future: Future[Started] = self.actor.start.remote().future()
        return future

    def run(self, chunk: Chunk) -> "Future[Finished]":
        future: Future[Finished] = self.actor.run.remote(chunk).future()
        return future

    def stop(self) -> None:
        self.ray.kill(self.actor)
