"""deploy-create-instance.yml with the real gcloud, against a local stand-in for Google's REST interfaces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from tests.deployment.gcloud_stub import PROJECT, Fault, GoogleStub, have_gcloud
from tests.deployment.test_gke_playbooks import DEPLOYMENT, Played, Player

EMAIL = f"s2s-vm@{PROJECT}.iam.gserviceaccount.com"
MACHINES = r"/zones/europe-west4-a/instances$"

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not os.environ.get("CI") and not have_gcloud(), reason="gcloud is not installed: https://cloud.google.com/sdk"
    ),
]


class Instance(Player):
    def __call__(self, google: GoogleStub, *options: str, state: str = "present") -> Played:
        variables = f"gcp_project={PROJECT} instance_state={state}"
        return self.run(google, DEPLOYMENT / "deploy-create-instance.yml", variables, *options)


@pytest.fixture(scope="module")
def play(tmp_path_factory) -> Instance:
    return Instance(tmp_path_factory.mktemp("instance"))


@pytest.fixture(scope="module")
def made(play) -> Iterator[tuple[GoogleStub, Played]]:
    """A machine that was made from nothing, and how that went."""
    with GoogleStub() as google:
        yield google, play(google)


def test_the_plan_is_told_and_nothing_is_made_in_check_mode(play):
    with GoogleStub() as google:
        played = play(google, "--check")
        assert played.returncode == 0, played.text[-3000:]
        assert not google.changes()
    assert "create machine s2s-vm (e2-standard-4)" in played.text


def test_a_machine_is_made_with_an_identity_and_a_firewall_of_its_own(made):
    google, played = made
    assert played.returncode == 0, played.text[-4000:]
    assert "ansible_host: 203.0.113.7" in played.text
    (body,) = google.asked("POST", MACHINES)
    assert body["machineType"].endswith("/machineTypes/e2-standard-4")
    (disk,) = body["disks"]
    assert re.search(r"/projects/debian-cloud/.*/debian-12$", disk["initializeParams"]["sourceImage"])
    assert disk["initializeParams"]["diskSizeGb"] == "50"
    (account,) = body["serviceAccounts"]
    assert account["email"] == EMAIL
    assert body["shieldedInstanceConfig"] == {
        "enableSecureBoot": True,
        "enableVtpm": True,
        "enableIntegrityMonitoring": True,
    }
    rules = {rule["name"]: rule for rule in google.asked("POST", "/global/firewalls$")}
    assert rules["s2s-vm-web"]["allowed"][0]["ports"] == ["80"]
    assert rules["s2s-vm-ssh"]["sourceRanges"] == ["35.235.240.0/20"], "ssh by the Identity-Aware Proxy alone"
    assert all(rule["targetServiceAccounts"] == [EMAIL] for rule in rules.values())
    refused = rules["s2s-vm-no-ssh"]
    assert (refused["denied"], refused["sourceRanges"]) == ([{"IPProtocol": "tcp", "ports": ["22"]}], ["0.0.0.0/0"])
    assert rules["s2s-vm-ssh"]["priority"] < refused["priority"] <= 1000, "before rules of others, Google's own too"
    granted = {each["role"] for each in google.policies[f"projects/{PROJECT}"]["bindings"]}
    assert granted == {"roles/artifactregistry.reader", "roles/logging.logWriter", "roles/monitoring.metricWriter"}
    assert not [request for request in google.requests if "keys" in request.path]


def test_a_second_run_changes_nothing(made, play):
    google, _ = made
    before = len(google.changes())
    again = play(google)
    assert (again.returncode, again.changed) == (0, 0), again.text[-4000:]
    assert len(google.changes()) == before


def test_who_may_open_an_ssh_connection_follows_the_settings(play):
    ranges = ("--extra-vars", '{"instance_ssh_ranges": ["198.51.100.0/24"]}')
    with GoogleStub() as google:
        assert play(google).returncode == 0
        planned = play(google, "--check", *ranges)
        assert "change firewall rule s2s-vm-ssh to 198.51.100.0/24" in planned.text, planned.text[-3000:]
        assert not google.asked("PATCH", "/firewalls/s2s-vm-ssh$")
        narrowed = play(google, *ranges)
        assert (narrowed.returncode, narrowed.changed) == (0, 1), narrowed.text[-4000:]
        (body,) = google.asked("PATCH", "/firewalls/s2s-vm-ssh$")
        assert body["sourceRanges"] == ["198.51.100.0/24"]
        assert play(google, *ranges).changed == 0


def test_a_machine_whose_network_let_everybody_try_ssh_is_closed_without_shutting_us_out(play):
    with GoogleStub() as google:
        assert play(google).returncode == 0
        folder = f"/compute/v1/projects/{PROJECT}/global/firewalls"
        google.resources[f"{folder}/s2s-vm-ssh"]["priority"] = 1000
        del google.resources[f"{folder}/s2s-vm-no-ssh"]
        google.requests.clear()
        closed = play(google)
        assert (closed.returncode, closed.changed) == (0, 2), closed.text[-4000:]
        assert [each.method for each in google.changes()] == ["PATCH", "POST"], "first who may, then nobody else"
        assert google.resources[f"{folder}/s2s-vm-ssh"]["priority"] == 900
        assert google.resources[f"{folder}/s2s-vm-ssh"]["sourceRanges"] == ["35.235.240.0/20"]
        assert play(google).changed == 0


def test_a_run_that_google_broke_off_is_told_and_goes_on_next_time_with_a_gpu_on_spot(play):
    with GoogleStub() as google:
        google.faults = [Fault("POST", MACHINES, message="Quota 'NVIDIA_L4_GPUS' exceeded. Limit: 0.0 in region")]
        options = ("--extra-vars", '{"instance_machine_type": "g2-standard-4", "instance_spot": true}')
        broken = play(google, *options)
        assert broken.returncode != 0
        said = " ".join(broken.text.split())
        for word in ("The machine s2s-vm", "NVIDIA_L4_GPUS", "quota is used up", "run the playbook again"):
            assert word in said, broken.text[-3000:]
        again = play(google, *options)
        assert again.returncode == 0, again.text[-4000:]
        assert len(google.asked("POST", r"/addresses$")) == 1, "what was made before is not made again"
        body = google.asked("POST", MACHINES)[-1]
    scheduling = body["scheduling"]
    assert (scheduling["provisioningModel"], scheduling["onHostMaintenance"]) == ("SPOT", "TERMINATE")


def test_an_account_without_rights_is_told_which_it_needs_whether_it_looks_makes_or_deletes(made, play):
    google, _ = made
    faults = (
        ("present", Fault("GET", r"/firewalls/s2s-vm-web$"), "roles/compute.securityAdmin"),
        ("absent", Fault("DELETE", r"/instances/s2s-vm$"), "roles/compute.instanceAdmin.v1"),
    )
    for state, fault, role in faults:
        google.faults = [fault]
        broken = play(google, state=state)
        assert broken.returncode != 0
        said = " ".join(broken.text.split())
        assert f"Your account may not do this. It needs {role} in project {PROJECT}" in said, broken.text[-3000:]
    with GoogleStub() as fresh:
        fresh.faults = [Fault("POST", r"/addresses$")]
        assert "roles/compute.publicIpAdmin" in play(fresh).text
    google.faults = []
    assert play(google).returncode == 0


def test_absent_deletes_what_was_made(made, play):
    google, _ = made
    gone = play(google, state="absent")
    assert gone.returncode == 0, gone.text[-4000:]
    assert google.resources == {}
    again = play(google, state="absent")
    assert (again.returncode, again.changed) == (0, 0)
