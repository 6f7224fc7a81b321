"""kuberay/: the manifests are what KubeRay's resources take, and keep the promises of cluster.yaml.

What they are checked against. No cluster runs here, so nothing is applied. The Ray-specific fields are checked against
kuberay_schema.json, which was written down from KubeRay's own field reference of v1.7.0 (ray-project/kuberay,
docs/reference/api.md, commit 97509c3a, generated from the Go types that its CRDs are generated from): names, types,
enumerations, minima, and no field that is not there. It is not the CRD itself, which is 1.2 MB of Kubernetes types:
those (pod templates, the volume claim, the network policy) are checked strictly, unknown fields refused, by
kubernetes-validate against Kubernetes' own schemas. The CRD's CEL rules and what the operator checks at run time are
not.
"""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
KUBERNETES = "1.33"
MANIFESTS = ("raycluster.yaml", "rayjob.yaml")

kubernetes_validate = pytest.importorskip("kubernetes_validate")


def load(name):
    return [document for document in yaml.safe_load_all((ROOT / "kuberay" / name).read_text()) if document]


def cluster_of(name):
    (manifest,) = load(name)
    return manifest["spec"]["rayClusterSpec"] if manifest["kind"] == "RayJob" else manifest["spec"]


def groups(cluster):
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def check(manifest):
    schema = json.loads((Path(__file__).parent / "kuberay_schema.json").read_text())
    kind = {"$defs": schema["$defs"], "$ref": f"#/$defs/{manifest['kind']}"}
    jsonschema.Draft202012Validator(kind).validate(manifest)
    spec = manifest["spec"]
    for group in groups(spec.get("rayClusterSpec", spec)):
        check_kubernetes({"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]})


def check_kubernetes(manifest):
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_fit_the_schema(name):
    (manifest,) = load(name)
    check(manifest)


def test_what_stands_beside_them_is_kubernetes():
    claim, policy = load("shared.yaml")
    for manifest in (claim, policy):
        check_kubernetes(manifest)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    names = {volume["persistentVolumeClaim"]["claimName"] for name in MANIFESTS for group in groups(cluster_of(name))
             for volume in group["template"]["spec"]["volumes"]}  # fmt: skip
    assert names == {claim["metadata"]["name"]}


def test_the_schemas_would_refuse_a_typo():
    (job,) = load("rayjob.yaml")

    def broken(change):
        manifest = copy.deepcopy(job)
        change(manifest["spec"])
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check(manifest)

    broken(lambda spec: spec.update(backOffLimit=3))
    broken(lambda spec: spec.update(submissionMode="K8sJob"))
    broken(lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="Token"))
    broken(lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}))
    broken(lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"))
    pod = "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec"

    def inside(spec):
        for key in pod:
            spec = spec[key]
        return spec

    broken(lambda spec: inside(spec).update(toleration=[]))
    broken(lambda spec: inside(spec)["containers"][0]["resources"]["limits"].update(cpu=[8]))


def test_the_job_brings_the_same_cluster():
    assert cluster_of("raycluster.yaml") == cluster_of("rayjob.yaml")


def test_promises_of_the_cluster():
    cluster = cluster_of("raycluster.yaml")
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == ["cpu", "gpu"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        spec = group["template"]["spec"]
        assert any("spot" in toleration["key"] for toleration in spec["tolerations"])
        assert spec["terminationGracePeriodSeconds"] >= 60
    for group in groups(cluster):
        spec = group["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["restartPolicy"] == "Never"  # what Ray's second autoscaler needs
        for container in spec["containers"]:
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
            assert "livenessProbe" not in container, "the operator's"
    (limits,) = [c["resources"]["limits"] for c in cluster["workerGroupSpecs"][1]["template"]["spec"]["containers"]]
    assert limits["nvidia.com/gpu"] == 1


def test_promises_of_the_job():
    (job,) = load("rayjob.yaml")
    spec = job["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] >= 1
    assert spec["ttlSecondsAfterFinished"] > 0
    words = spec["entrypoint"].split()
    assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").is_file()
    assert words[words.index("--out") + 1].startswith("/shared/")
    assert "env_vars" in yaml.safe_load(spec["runtimeEnvYAML"])


def test_versions_are_the_pinned_ones():
    pin = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert cluster_of("raycluster.yaml")["rayVersion"] == pin
    dockerfile = (ROOT / "kuberay" / "Dockerfile").read_text()
    assert f"BASE=rayproject/ray:{pin}-py311\n" in dockerfile
    assert "--constraint constraints.txt" in dockerfile
    copied = set(re.findall(r"^COPY --chown=ray:users (\w+) \1$", dockerfile, re.MULTILINE))
    assert copied == {"data", "distributed", "es", "jobs", "models"}
    images = {
        c["image"] for group in groups(cluster_of("rayjob.yaml")) for c in group["template"]["spec"]["containers"]
    }
    assert images == {re.search(r"--tag (\S+)", dockerfile)[1]}
