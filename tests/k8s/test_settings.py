"""The settings that the manifests give are settings that the programs take, and fit to the pods they run in."""

import re

import pytest
from manifests import JOBS, of_kind

from beam_pipelines.settings import Settings as Prepare
from boceto.settings import parse
from eval_jobs.settings import Settings as Evaluate
from trainer.settings import Settings as Train

PROGRAMS = {"prepare": Prepare, "train": Train, "eval": Evaluate}


@pytest.fixture
def read(tmp_path):
    """Reads the settings of a job's objects as its container would."""

    def read(objects):
        (job,) = of_kind(objects, "Job")
        (settings,) = of_kind(objects, "ConfigMap")
        spec = job["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        (volume,) = [volume["name"] for volume in spec["volumes"] if "configMap" in volume]
        assert settings["metadata"]["name"] in [volume.get("configMap", {}).get("name") for volume in spec["volumes"]]
        (folder,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume]
        for name, text in settings["data"].items():
            (tmp_path / name).write_text(text)
        verb, *words = [word.replace(folder, str(tmp_path)) for word in container["args"]]
        return parse(PROGRAMS[verb], verb, words, "").settings

    return read


def test_every_setting_is_known_and_allowed(objects, read):
    read(objects)


def test_a_changed_setting_is_a_new_map(objects):
    (settings,) = of_kind(objects, "ConfigMap")
    assert re.fullmatch(r"boceto-settings-(prepare|train|eval)-[0-9a-z]{10}", settings["metadata"]["name"])


def test_each_job_reads_what_the_one_before_wrote(chain, read):
    prepare, train, evaluate = (read(chain[job]) for job in JOBS)
    assert prepare.output == train.data == evaluate.data
    assert train.run == evaluate.run


def test_the_trainer_is_given_longer_than_it_takes_to_stop(chain, read):
    (job,) = of_kind(chain["train"], "Job")
    assert read(chain["train"]).grace < job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


def test_prepare_has_a_core_for_each_worker(chain, read):
    (job,) = of_kind(chain["prepare"], "Job")
    limits = job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert 1 <= read(chain["prepare"]).workers <= int(limits["cpu"])


def test_a_batch_divides_over_the_gpus(chain, read):
    (job,) = of_kind(chain["train"], "Job")
    gpus = int(job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 1))
    assert read(chain["train"]).batch_size % gpus == 0


def test_only_the_trainer_asks_for_gpus(chain):
    for program in ("prepare", "eval"):
        assert "nvidia.com/gpu" not in str(of_kind(chain[program], "Job"))
