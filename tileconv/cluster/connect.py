"""From what a job says of its cluster to a connected client."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask

from tileconv.bounded import check_regular
from tileconv.cluster.forks import check_not_forked
from tileconv.errors import ClusterError, ConfigError
from tileconv.jobs.config import CLUSTERS, security_files
from tileconv.text import visible

try:
    import distributed
    from distributed.comm.core import connect as open_comm
except ImportError as error:
    raise ConfigError(
        "running on a cluster needs the package distributed: pip install 'tileconv[cluster]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tileconv.jobs.config import ClusterConfig
    from tileconv.jobs.job import Job

LOCAL = ("127.", "localhost", "[::1]")
CALM = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "2s",
}
"""Of worker processes on this machine: by default, idle ones take 3 % of a core each, and the
scheduler 6 %, to look at themselves up to a hundred times a second."""
CONNECT_SECONDS = 10
WORKER_SECONDS = 600
"""How long a queue may take to start the first worker."""


@contextmanager
def connect(job: Job, client: Any = None, *, watched: bool = False) -> Iterator[distributed.Client]:
    """Give a client of the cluster that ``job`` names; what is started here is closed after.

    Worker processes that are started here look at themselves as dask has it if they are
    ``watched``.
    """
    check_not_forked()
    if client is not None:
        if not isinstance(client, distributed.Client):
            raise ConfigError(f"client must be a dask.distributed.Client; got {type(client)}")
        yield client
        return
    with ExitStack() as stack:
        if job.scheduler == "processes":
            target: Any = stack.enter_context(start_processes(job, calm=not watched))
        elif job.cluster is not None:
            target = stack.enter_context(make_cluster(job.cluster, job.security))
        else:
            target = job.scheduler
            _warn_of_open_network(target)
        yield stack.enter_context(_client(target, job))


def start_processes(job: Job, *, calm: bool) -> distributed.LocalCluster:
    """Start worker processes on this machine, of one thread each."""
    with dask.config.set(CALM if calm else {}):
        return distributed.LocalCluster(
            n_workers=job.threads,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=job.memory_limit // job.threads,
            silence_logs=logging.CRITICAL,  # a failed task's traceback beside the message, for one
        )


def make_cluster(config: ClusterConfig, security: Any = None) -> Any:
    """Start the cluster that a job names; only now is its package imported."""
    module, package = CLUSTERS[config.name]
    try:
        made = getattr(importlib.import_module(module), config.name)
    except ImportError as error:
        raise ConfigError(
            f"compute.cluster: {config.name} needs a package: pip install '{package}'"
        ) from error
    options = dict(config.options)
    if security is not None:
        options["security"] = _security(security)
    try:
        cluster = made(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"compute.cluster.options: {config.name}: {error}") from error
    except OSError as error:
        raise ClusterError(f"compute.cluster: {config.name} did not start: {error}") from error
    if config.adapt is not None:
        cluster.adapt(minimum=config.adapt.minimum, maximum=config.adapt.maximum)
    elif config.scale is not None:
        cluster.scale(config.scale)
    return cluster


def _client(target: Any, job: Job) -> distributed.Client:
    options: dict[str, Any] = {"timeout": CONNECT_SECONDS, "set_as_default": False}
    if isinstance(target, str):
        if job.security is not None:
            options["security"] = _security(job.security)
        _knock(target, options.get("security"))
    try:
        return distributed.Client(target, **options)
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"compute.scheduler: no dask scheduler answers at {target}: {error}; nothing was begun"
        ) from error


def _security(given: Mapping[str, Any]) -> distributed.Security:
    """Return keys and certificates, whose files are looked at: what opens them would wait."""
    for key, path in security_files(given):
        try:
            check_regular(Path(path))
        except OSError as error:
            raise ConfigError(f"compute.security.{key}: {path}: {error.strerror}") from error
    try:
        return distributed.Security(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"compute.security: {error}") from error


def _knock(address: str, security: distributed.Security | None) -> None:
    """Check that a scheduler answers, within `CONNECT_SECONDS`.

    A client would wait for ever for the first word of what listens and says nothing, and a thread
    of its own also bounds what looks up the name.
    """
    try:
        chosen = distributed.Security() if security is None else security
        arguments = chosen.get_connection_args("client")
    except (OSError, ValueError) as error:
        raise ConfigError(f"compute.security: {error}") from error
    if address.startswith("tls://") and arguments.get("ssl_context") is None:
        raise ConfigError(
            f"compute.scheduler: {address} needs compute.security, with keys like tls_ca_file, "
            "tls_client_cert and tls_client_key"
        )
    found: list[BaseException | None] = []

    async def knock() -> None:
        comm = await open_comm(address, timeout=CONNECT_SECONDS, **arguments)
        await comm.close()

    def try_it() -> None:
        try:
            asyncio.run(asyncio.wait_for(knock(), CONNECT_SECONDS))
        except BaseException as error:  # to be raised where the caller is
            found.append(error)
        else:
            found.append(None)

    thread = threading.Thread(target=try_it, name="tileconv-knock", daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS + 1)
    trouble = found[0] if found else TimeoutError()
    if isinstance(trouble, ValueError | OverflowError):  # a port, or a name, that there cannot be
        raise ConfigError(f"compute.scheduler: {address} is no address: {trouble}") from trouble
    if trouble is not None:
        told = str(trouble) or f"there was no answer within {CONNECT_SECONDS} seconds"
        raise ClusterError(
            f"compute.scheduler: no dask scheduler answers at {address}: {told}; nothing was begun"
        ) from trouble


def wait_for_workers(client: distributed.Client, seconds: float = WORKER_SECONDS) -> None:
    """Wait for the first worker."""
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError as error:
        raise ClusterError(
            f"no worker came to the cluster within {seconds:.0f} seconds; look at its logs or queue"
        ) from error


def _warn_of_open_network(address: str) -> None:
    host = address.partition("://")[2]
    if address.startswith("tcp://") and not host.startswith(LOCAL):
        warnings.warn(
            f"{visible(address)} is not encrypted: whoever reaches that port can run code on the "
            "cluster; use tls:// with compute.security, or keep the network closed",
            RuntimeWarning,
            stacklevel=2,
        )
