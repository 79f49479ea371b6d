"""The examples in configs/cluster name what the classes take; one runs on a real SLURM."""

import inspect
import os
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT, read
from slurm import one_node, why_not

import tileconv
from tileconv.cluster.connect import make_cluster
from tileconv.jobs.config import check_job
from tileconv.jobs.yaml import parse

EXAMPLES = sorted((ROOT / "configs" / "cluster").glob("*.yaml"))


def cluster_of(name):
    path = ROOT / "configs" / "cluster" / name
    config = check_job(parse(path.read_text(), str(path)), str(path)).compute.cluster
    assert config is not None
    return config


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid_jobs(path):
    config = cluster_of(path.name)
    assert (config.scale is None) != (config.adapt is None)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "slurm.yaml",
            [
                "#SBATCH -p standard",
                "#SBATCH --cpus-per-task=4",
                "#SBATCH --mem=16G",
                "#SBATCH -t 02:00:00",
                "--nthreads 4",
            ],
        ),
        ("pbs.yaml", ["#PBS -q workq", "#PBS -l select=1:ncpus=4:mem=16gb", "--nthreads 4"]),
    ],
)
def test_batch_examples_give_the_job_script_they_promise(tmp_path, monkeypatch, name, lines):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    monkeypatch.chdir(tmp_path)  # the folder of the logs is made
    config = cluster_of(name)
    local = {"interface": "lo", "scheduler_options": {"dashboard_address": ":0"}}
    config = config.model_copy(update={"scale": None, "options": config.options | local})
    with make_cluster(config) as cluster:
        script = cluster.job_script()
    for line in lines:
        assert line in script


def test_the_kubernetes_example_has_what_the_operator_makes():
    operator = pytest.importorskip(
        "dask_kubernetes.operator", reason="dask-kubernetes is not installed"
    )
    config = cluster_of("kubernetes.yaml")
    known = inspect.signature(operator.KubeCluster.__init__).parameters
    assert set(config.options) <= set(known)
    spec = config.options["custom_cluster_spec"]
    made = operator.make_cluster_spec(name=spec["metadata"]["name"])
    assert {key: spec[key] for key in ("apiVersion", "kind")} == {
        key: made[key] for key in ("apiVersion", "kind")
    }
    ours, theirs = spec["spec"], made["spec"]
    assert ours["scheduler"]["service"]["selector"] == theirs["scheduler"]["service"]["selector"]
    for ports in (lambda s: s["service"]["ports"], lambda s: s["spec"]["containers"][0]["ports"]):
        assert {port["name"] for port in ports(ours["scheduler"])} == {
            port["name"] for port in ports(theirs["scheduler"])
        }
    worker = ours["worker"]["spec"]["containers"][0]
    volumes = {volume["name"] for volume in ours["worker"]["spec"]["volumes"]}
    assert {mount["name"] for mount in worker["volumeMounts"]} <= volumes


@pytest.mark.slow
def test_a_job_runs_on_a_real_slurm(tmp_path, make_raster, rng, monkeypatch):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    if reason := why_not():
        pytest.skip(reason)
    source = make_raster(rng.integers(0, 9999, (3000, 3000), np.uint16), block=(256, 256))
    keys = yaml.safe_load((ROOT / "configs" / "cluster" / "slurm.yaml").read_text())
    keys["input"]["path"] = str(source)
    local = keys.copy()
    keys["output"] = {"path": str(tmp_path / "slurm.tif")}
    keys["compute"]["cluster"]["scale"] = 2
    keys["compute"]["cluster"]["options"] |= {
        "cores": 1,
        "memory": "1GiB",
        "interface": "lo",
        "walltime": "00:05:00",
        "log_directory": str(tmp_path / "logs"),
        "local_directory": str(tmp_path),
        "scheduler_options": {"dashboard_address": ":0"},
        "job_script_prologue": [f"export PYTHONPATH={ROOT}"],
        "python": sys.executable,
    }
    keys["compute"]["part"] = 256
    local["output"], local["compute"] = {"path": str(tmp_path / "local.tif")}, {}
    for name, job in (("slurm", keys), ("local", local)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(job))
    (tmp_path / "one").mkdir()
    with one_node(tmp_path / "one") as config:
        monkeypatch.setenv("SLURM_CONF", str(config))
        report = tileconv.run(tileconv.load_job(tmp_path / "slurm.yaml"))
    tileconv.run(tileconv.load_job(tmp_path / "local.yaml"))
    assert report.cluster.parts > 1
    assert list((tmp_path / "logs").glob("*.err"))  # the workers were SLURM's
    assert os.environ["SLURM_CONF"] == str(config)
    assert read(tmp_path / "slurm.tif").tobytes() == read(tmp_path / "local.tif").tobytes()
