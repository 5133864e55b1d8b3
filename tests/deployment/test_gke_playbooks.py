"""The cluster's playbooks with the real gcloud, against a local stand-in for Google's REST interfaces.

gcloud's own parser refuses a wrong flag, and what it posts is asserted; what Google makes of it is not shown here.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.deployment.gcloud_stub import PROJECT, Fault, GoogleStub, have_gcloud
from tests.deployment.tools import ROOT, tool, tool_set

DEPLOYMENT = ROOT / "deployment"
CLUSTERS = r"/clusters$"
POOLS = r"/nodePools$"

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not os.environ.get("CI") and not have_gcloud(), reason="gcloud is not installed: https://cloud.google.com/sdk"
    ),
]


@dataclass
class Played:
    returncode: int
    text: str

    @property
    def changed(self) -> int:
        return int(re.findall(r"changed=(\d+)", self.text)[-1])


@dataclass
class Player:
    folder: Path

    def __call__(self, google: GoogleStub, *options: str, state: str = "present") -> Played:
        """The role of deploy-k8s-cluster.yml that talks to Google."""
        playbook = self.folder / "cluster.yml"
        playbook.write_text(yaml.safe_dump([{"hosts": "cloud", "gather_facts": False, "roles": ["gke_cluster"]}]))
        return self.run(google, playbook, f"gcp_project={PROJECT} cluster_state={state}", *options)

    def run(self, google: GoogleStub, playbook: Path, variables: str, *options: str) -> Played:
        command = [tool("ansible-playbook"), playbook, "-i", DEPLOYMENT / "inventory.yml"]
        command += ["--extra-vars", variables, *options]
        environment = {
            **os.environ,
            **google.environment(self.folder),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_ROLES_PATH": str(DEPLOYMENT / "roles"),
            "ANSIBLE_NOCOLOR": "1",
            "PATH": f"{tool_set('ansible') / 'bin'}:{os.environ['PATH']}",
        }
        words = [str(word) for word in command]
        answer = subprocess.run(words, cwd=DEPLOYMENT, env=environment, text=True, capture_output=True, timeout=1500)
        return Played(answer.returncode, answer.stdout + answer.stderr)


@pytest.fixture(scope="module")
def play(tmp_path_factory) -> Player:
    return Player(tmp_path_factory.mktemp("gke"))


@pytest.fixture(scope="module")
def made(play):
    """A cluster that was made from nothing, and how that went."""
    with GoogleStub() as google:
        yield google, play(google)


@pytest.fixture
def nearly_done():
    """A project in which everything is made but the cluster, so that a fault there is met soon."""
    with GoogleStub() as google:
        prepare(google)
        yield google


def prepare(google: GoogleStub) -> None:
    """APIs, address, bucket, identity and its rights, as a run that was broken off leaves them."""
    email = f"s2s-service@{PROJECT}.iam.gserviceaccount.com"
    account, bucket = f"projects/{PROJECT}/serviceAccounts/{email}", f"{PROJECT}-s2s-blobs"
    google.enabled = {f"{name}.googleapis.com" for name in _services()}
    google.resources = {
        f"/compute/v1/projects/{PROJECT}/global/addresses/s2s": {"name": "s2s", "address": "203.0.113.7"},
        f"/storage/v1/b/{bucket}": {"name": bucket, "location": "EU"},
        f"/v1/{account}": {"email": email, "name": account},
    }
    pods = [f"serviceAccount:{PROJECT}.svc.id.goog[s2s/{pod}]" for pod in ("api-service", "worker", "migrate")]
    member = [f"serviceAccount:{email}"]
    google.policies = {
        account: {"bindings": [{"role": "roles/iam.workloadIdentityUser", "members": pods}]},
        f"b/{bucket}": {"bindings": [{"role": "roles/storage.objectUser", "members": member}]},
        f"projects/{PROJECT}": {
            "bindings": [
                {"role": "roles/cloudsql.client", "members": member},
                {"role": "roles/cloudsql.instanceUser", "members": member},
            ]
        },
    }


def _services() -> list[str]:
    defaults = yaml.safe_load((DEPLOYMENT / "roles/gke_cluster/defaults/main.yml").read_text())
    return [name.split(".")[0] for name in defaults["gke_cluster_services"]]


def test_a_cluster_is_made_as_planned(made):
    google, played = made
    assert played.returncode == 0, played.text[-4000:]
    (body,) = google.asked("POST", CLUSTERS)
    cluster = body["cluster"]
    assert cluster["name"] == "silence-to-sound"
    assert cluster["workloadIdentityConfig"] == {"workloadPool": f"{PROJECT}.svc.id.goog"}
    assert cluster["networkConfig"]["gatewayApiConfig"] == {"channel": "CHANNEL_STANDARD"}
    assert cluster["networkConfig"]["datapathProvider"] == "ADVANCED_DATAPATH", "NetworkPolicies are enforced"
    assert cluster["releaseChannel"] == {"channel": "REGULAR"}
    assert cluster["privateClusterConfig"]["enablePrivateNodes"] is True
    addons = cluster["addonsConfig"]
    assert addons["httpLoadBalancing"].get("disabled", False) is False
    assert addons["horizontalPodAutoscaling"].get("disabled", False) is False
    (pool,) = cluster["nodePools"]
    assert pool["config"]["machineType"] == "e2-standard-4"
    assert pool["config"]["workloadMetadataConfig"] == {"mode": "GKE_METADATA"}
    assert pool["autoscaling"]["totalMaxNodeCount"] == 6


def test_the_gpu_pool_starts_at_nothing_with_a_driver_by_gke(made):
    google, _ = made
    (body,) = google.asked("POST", POOLS)
    pool = body["nodePool"]
    assert pool["initialNodeCount"] == 0
    assert pool["autoscaling"]["enabled"] is True
    assert pool["autoscaling"].get("totalMinNodeCount", 0) == 0
    assert pool["autoscaling"]["totalMaxNodeCount"] == 8
    assert pool["config"]["spot"] is True
    assert pool["config"]["machineType"] == "g2-standard-4"
    (gpu,) = pool["config"]["accelerators"]
    assert (gpu["acceleratorType"], gpu["acceleratorCount"]) == ("nvidia-l4", "1")
    assert gpu["gpuDriverInstallationConfig"] == {"gpuDriverVersion": "LATEST"}


def test_pods_get_their_rights_by_workload_identity_and_no_key_is_made(made):
    google, _ = made
    bound = {
        (each["role"], member)
        for policy in google.policies.values()
        for each in policy.get("bindings", [])
        for member in each["members"]
    }
    account = f"serviceAccount:s2s-service@{PROJECT}.iam.gserviceaccount.com"
    pods = {f"serviceAccount:{PROJECT}.svc.id.goog[s2s/{pod}]" for pod in ("api-service", "worker", "migrate")}
    assert bound == {("roles/iam.workloadIdentityUser", pod) for pod in pods} | {
        ("roles/storage.objectUser", account),
        ("roles/cloudsql.client", account),
        ("roles/cloudsql.instanceUser", account),
    }
    assert not [request for request in google.requests if "keys" in request.path]


def test_nobody_can_read_the_bucket_from_outside(made):
    google, _ = made
    (bucket,) = google.asked("POST", r"/storage/v1/b$")
    assert bucket["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert bucket["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"] is True


def test_a_second_run_changes_nothing(made, play):
    google, _ = made
    before = len(google.changes())
    again = play(google)
    assert again.returncode == 0, again.text[-4000:]
    assert again.changed == 0
    assert len(google.changes()) == before


def test_another_size_of_the_gpu_pool_is_a_change_of_that_alone(made, play):
    google, _ = made
    before = len(google.changes())
    played = play(google, "--extra-vars", "gke_cluster_gpu_max_nodes=4")
    assert played.returncode == 0, played.text[-4000:]
    assert played.changed == 1
    (change,) = google.changes()[before:]
    assert "4" in str(change.body)
    assert google.resources[_key(google, "nodePools/gpu")]["autoscaling"]["totalMaxNodeCount"] == 4


def _key(google: GoogleStub, end: str) -> str:
    (key,) = [key for key in google.resources if key.endswith(end)]
    return key


def test_check_prints_the_plan_and_makes_nothing(play):
    with GoogleStub() as google:
        played = play(google, "--check")
        assert played.returncode == 0, played.text[-4000:]
        assert not google.changes()
    assert "would run: gcloud container clusters create silence-to-sound" in played.text
    assert "would run: gcloud container node-pools create gpu" in played.text
    assert "0 to 8 nodes g2-standard-4 with nvidia-l4, Spot" in played.text
    assert played.changed >= 5


FAULTS = (
    (Fault("POST", CLUSTERS, 403), ["may not do this", "roles/container.admin"]),
    (Fault("POST", CLUSTERS, 409, "ALREADY_EXISTS", "Already exists"), ["Somebody else is changing it"]),
    (
        Fault("POST", CLUSTERS, message="Insufficient regional quota to satisfy request: resource CPUS"),
        ["quota is used up", "console.cloud.google.com/iam-admin/quotas"],
    ),
    (
        Fault("POST", POOLS, message="Quota 'NVIDIA_L4_GPUS' exceeded. Limit: 0.0", operation_error=True),
        ["The GPU pool", "quota is used up"],
    ),
    (Fault("POST", POOLS, message="Internal error in zone", operation_error=True), ["Internal error in zone"]),
)


def test_faults_one_after_the_other_are_told_clearly_and_each_next_run_goes_on_from_there(nearly_done, play):
    google = nearly_done
    for fault, words in FAULTS:
        google.faults = [fault]
        broken = play(google)
        assert broken.returncode != 0, fault
        said = " ".join(broken.text.split())
        for word in [*words, "run the playbook again"]:
            assert word in said, broken.text[-3000:]
    google.faults = []
    again = play(google)
    assert again.returncode == 0, again.text[-4000:]
    assert _key(google, "clusters/silence-to-sound")
    assert _key(google, "nodePools/gpu")
    assert again.changed == 1, "the cluster was made before the pool's first fault, and is not made twice"


def test_a_project_that_is_still_a_placeholder_is_refused(play):
    with GoogleStub() as google:
        played = play(google, "--extra-vars", "gcp_project=your-project-id")
        assert played.returncode != 0
        assert "Replace gcp_project" in played.text
        assert not google.requests


def test_absent_deletes_cluster_and_address_and_keeps_the_data(play):
    with GoogleStub() as google:
        base = f"projects/{PROJECT}"
        google.resources = {
            f"/v1/{base}/locations/europe-west4-a/clusters/silence-to-sound": {
                "name": "silence-to-sound",
                "status": "RUNNING",
            },
            f"/compute/v1/{base}/global/addresses/s2s": {"name": "s2s", "address": "203.0.113.7"},
            f"/storage/v1/b/{PROJECT}-s2s-blobs": {"name": f"{PROJECT}-s2s-blobs"},
        }
        planned = play(google, "--check", state="absent")
        assert "would delete the cluster silence-to-sound" in planned.text
        assert len(google.resources) == 3
        played = play(google, state="absent")
        assert played.returncode == 0, played.text[-4000:]
        assert list(google.resources) == [f"/storage/v1/b/{PROJECT}-s2s-blobs"]
        again = play(google, state="absent")
        assert (again.returncode, again.changed) == (0, 0)
