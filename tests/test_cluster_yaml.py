"""cluster.yaml is what Ray's own validator takes, and keeps its promises: no work on the head, pins, a token."""

import copy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def validate(config):
    """Ray's validation, which is private: the one place that touches it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_rays_validator_takes_it(config):
    validate(config)


def test_rays_validator_would_refuse_a_typo(config):
    with pytest.raises(Exception, match="max_worker"):
        validate({**config, "max_worker": 3})
    with pytest.raises(Exception, match="head"):
        validate({**config, "head_node_type": "nobody"})


def test_for_machines_of_ones_own(config):
    local = {key: value for key, value in config.items() if key not in ("available_node_types", "head_node_type")}
    local["provider"] = {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}
    local.pop("max_workers")
    validate(local)


def test_the_head_does_no_work_and_the_dashboard_stays_at_home(config):
    assert config["available_node_types"][config["head_node_type"]]["resources"]["CPU"] == 0
    (start,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_JOB_STOP_WAIT_TIME_S=30" in start


def test_nodes_are_pinned_and_want_a_token(config):
    mounts, commands = config["file_mounts"], "\n".join(config["setup_commands"])
    for source in (source for source in mounts.values() if not source.startswith("~")):
        assert (ROOT / source).is_file()
    assert "--constraint ~/counterpoint/constraints.txt" in commands
    assert "--python 3.11" in commands
    assert "RAY_AUTH_MODE=token" in commands
    assert "chmod 600 ~/.ray/auth_token" in commands
    assert any(line.startswith("ray==2.60") for line in (ROOT / "constraints.txt").read_text().splitlines())


def test_workers_may_be_taken_away(config):
    for name in ("cpu", "gpu"):
        node = config["available_node_types"][name]
        assert node["min_workers"] == 0
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
