"""Promises of the rendered manifests. No cluster is needed: kustomize, published schemas, checkov and our own rules."""

from __future__ import annotations

import json
import re
import shutil

import jinja2
import pytest
import yaml
from tests.deployment.manifests import (
    K8S,
    OVERLAYS,
    WORKLOADS,
    containers_of,
    named,
    of_kind,
    overlay,
    pod_of,
    render,
    selects,
)
from tests.deployment.tools import HERE, ROOT, node_modules, run, tool

from s2s.config import Settings

VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
PLACEHOLDER = "sha256:" + "0" * 64
ROLLOUT = "rollout-by-pipeline"
OURS = ("api-service", "frontend", "model-server")
CUSTOM = {
    "gateway.networking.k8s.io": "gateway-api/gateway.networking.k8s.io",
    "keda.sh": "keda/keda.sh",
    "networking.gke.io": "gke/networking.gke.io",
    "monitoring.coreos.com": "prometheus-operator/monitoring.coreos.com",
}
NO_SCHEMA = {"PodMonitoring"}  # Google publishes none on npm; test_metrics_are_scraped holds its few fields
FREE_FORM = {"metadata", "annotations", "labels", "selector", "behavior"}  # keys of ours, or Kubernetes' own types
# The gateway counts the rest; in a cluster it works on no job itself.
COUNTED_BY_WORKERS = {"s2s_attempts_total", "s2s_run_seconds_bucket", "s2s_lease_losses_total", "s2s_webhooks_total"}

pytestmark = pytest.mark.timeout(600)
every_overlay = pytest.mark.parametrize("name", OVERLAYS)


@pytest.mark.parametrize("version", VERSIONS)
@every_overlay
def test_every_object_is_valid_strictly(name, version, tmp_path):
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump_all(overlay(name)))
    answer = run(tool("kubernetes-validate"), "--strict", "--no-warn", "--quiet", "-k", version, path)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_strict_check_sees_a_mistyped_key(tmp_path):
    broken = yaml.safe_load(yaml.safe_dump(named(overlay("gke"), "Deployment", "worker")))
    broken["spec"]["replica"] = 3
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(broken))
    assert run(tool("kubernetes-validate"), "--strict", "--quiet", "-k", "1.37", path).returncode != 0


def _custom(objects) -> list[dict]:
    return [each for each in objects if each["apiVersion"].split("/")[0] in CUSTOM]


def _schema_errors(objects) -> dict[str, list]:
    checker = ["node", HERE / "check_crds.mjs", node_modules()]
    answer = run(*checker, input=json.dumps(objects))
    assert answer.returncode == 0, answer.stderr
    return {each["name"]: each["errors"] for each in json.loads(answer.stdout)}


def _unknown_keys(value, known: str, path: str = "") -> list[str]:
    """Schemas of custom resources let unknown keys pass; a key that no published type has is a typing error."""
    if isinstance(value, list):
        return [found for each in value for found in _unknown_keys(each, known, path)]
    if not isinstance(value, dict):
        return []
    found = []
    for key, inner in value.items():
        if not re.search(rf'"{re.escape(key)}"\??:', known):
            found.append(f"{path}.{key}")
        if key not in FREE_FORM:
            found += _unknown_keys(inner, known, f"{path}.{key}")
    return found


def _types_of(api_version: str) -> str:
    """All published TypeScript types of an API group."""
    folder = node_modules() / "@kubernetes-models" / CUSTOM[api_version.split("/")[0]]
    return "".join(path.read_text() for path in folder.rglob("*.d.ts"))


def _everything() -> list[dict]:
    """Also the components that no overlay takes: each on top of gke, as a person would use it."""
    extra = [yaml.safe_load_all(render(K8S / "tests" / name)) for name in ("tls", "operator")]
    return [each for objects in (*map(overlay, OVERLAYS), *extra) for each in objects]


def test_gateway_keda_and_monitoring_objects_fit_their_published_schemas():
    objects = _custom(_everything())
    assert {"Gateway", "HTTPRoute", "ScaledObject", "ServiceMonitor", "GCPBackendPolicy"} <= {
        o["kind"] for o in objects
    }
    errors = _schema_errors(objects)
    assert None not in errors.values(), f"no schema for {[name for name, found in errors.items() if found is None]}"
    assert not any(errors.values()), errors
    assert not [found for each in objects for found in _unknown_keys(each["spec"], _types_of(each["apiVersion"]))]


def test_the_schema_check_sees_wrong_types_and_mistyped_keys():
    wrong = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "x"},
        "spec": {"triggers": 1},
    }
    assert _schema_errors([wrong])["ScaledObject/x"]
    assert _unknown_keys({"rulez": []}, _types_of("gateway.networking.k8s.io/v1")) == [".rulez"]


def test_no_object_is_left_unchecked():
    groups = {(each["apiVersion"].split("/")[0], each["kind"]) for name in OVERLAYS for each in overlay(name)}
    builtin = {"v1", "apps", "batch", "policy", "autoscaling", "networking.k8s.io"}
    assert {kind for group, kind in groups if group not in builtin | set(CUSTOM)} <= NO_SCHEMA


@every_overlay
def test_checkov_finds_nothing(name, tmp_path):
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump_all(overlay(name)))
    options = ["--skip-download", "--framework", "kubernetes", "--compact", "--output", "json", "-f", path]
    answer = run(tool("checkov"), *options, within_s=500)
    report = json.loads(answer.stdout)
    failed = [(check["check_id"], check["resource"]) for check in report["results"]["failed_checks"]]
    assert not failed
    assert report["summary"]["passed"] > 300
    for check in report["results"]["skipped_checks"]:
        assert len(check["check_result"]["suppress_comment"]) > 20, (
            f"an exception without a reason: {check['check_id']}"
        )


@every_overlay
def test_every_image_is_pinned_and_ours_by_a_placeholder_that_no_registry_answers(name):
    for workload in of_kind(overlay(name), *WORKLOADS):
        for container in containers_of(workload):
            image, digest = container["image"].split("@")
            assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
            assert digest == PLACEHOLDER or image not in OURS


@every_overlay
def test_a_deployment_puts_its_own_registry_and_digests_into_an_overlay(name, tmp_path):
    """The template of the role k8s_apply, filled in, around the overlay."""
    digest = "sha256:" + "5a" * 32
    template = (ROOT / "deployment/roles/k8s_apply/templates/kustomization.yaml.j2").read_text()
    text = (
        jinja2.Environment(trim_blocks=True)
        .from_string(template)
        .render(
            k8s_apply_overlay=name,
            k8s_apply_domain="",
            k8s_apply_namespace="s2s",
            k8s_apply_config={"S2S_LOG_LEVEL": "DEBUG"},
            k8s_apply_digests={image: f"registry.example/{image}@{digest}" for image in OURS},
        )
    )
    shutil.copytree(K8S, tmp_path / "k8s")
    folder = tmp_path / ".build" / name
    folder.mkdir(parents=True)
    (folder / "kustomization.yaml").write_text(text)
    objects = list(yaml.safe_load_all(render(folder)))
    images = {each["image"] for workload in of_kind(objects, *WORKLOADS) for each in containers_of(workload)}
    assert {f"registry.example/{image}@{digest}" for image in OURS} <= images
    assert "DEBUG" in {each["data"].get("S2S_LOG_LEVEL") for each in of_kind(objects, "ConfigMap")}


@every_overlay
def test_every_pod_meets_the_restricted_standard(name):
    objects = overlay(name)
    labels = named(objects, "Namespace", "s2s")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for workload in of_kind(objects, *WORKLOADS):
        pod = pod_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim"} for volume in pod.get("volumes", []))
        for container in containers_of(workload):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert not any("hostPort" in port for port in container.get("ports", []))


@every_overlay
def test_no_pod_holds_a_key_to_the_api_server(name):
    for workload in of_kind(overlay(name), *WORKLOADS):
        pod = pod_of(workload)
        assert pod["automountServiceAccountToken"] is False
        account = named(overlay(name), "ServiceAccount", pod["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False
    assert not of_kind(overlay(name), "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


def test_the_training_pipeline_may_change_the_model_server_and_nothing_else(tmp_path):
    objects = list(yaml.safe_load_all(render(K8S / "tests" / "operator")))
    role, binding = named(objects, "Role", ROLLOUT), named(objects, "RoleBinding", ROLLOUT)
    changing = [rule for rule in role["rules"] if set(rule["verbs"]) - {"get", "list"}]
    assert changing == [
        {
            "apiGroups": ["apps"],
            "resources": ["deployments"],
            "resourceNames": ["model-server"],
            "verbs": ["get", "patch"],
        }
    ]
    assert binding["roleRef"]["name"] == ROLLOUT
    assert binding["metadata"]["namespace"] == role["metadata"]["namespace"] == "s2s"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": "kubeflow"}]
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")
    path = tmp_path / "rollout.yaml"
    path.write_text(yaml.safe_dump_all([role, binding]))
    for version in VERSIONS:
        answer = run(tool("kubernetes-validate"), "--strict", "--no-warn", "--quiet", "-k", version, path)
        assert answer.returncode == 0, answer.stdout + answer.stderr


@every_overlay
def test_every_container_has_requests_limits_and_probes(name):
    for workload in of_kind(overlay(name), *WORKLOADS):
        for container in containers_of(workload):
            resources = container["resources"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"])
            assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["limits"])
            if container["name"] not in ("worker", "migrate"):
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


@every_overlay
def test_every_selector_finds_its_pods_and_every_port_its_name(name):
    objects = overlay(name)
    pods = {w["metadata"]["name"]: w["spec"]["template"]["metadata"]["labels"] for w in of_kind(objects, *WORKLOADS)}
    for service in of_kind(objects, "Service"):
        matched = [pod for pod, labels in pods.items() if service["spec"]["selector"].items() <= labels.items()]
        assert matched == [service["metadata"]["name"]]
        ports = {port["name"] for c in containers_of(_workload(objects, matched[0])) for port in c.get("ports", [])}
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert any(selects(budget["spec"]["selector"], labels) for labels in pods.values())
    for scaler in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in named(objects, target["kind"], target["name"])["spec"], "two masters of one number"
    for workload in of_kind(objects, "Deployment"):
        assert selects(workload["spec"]["selector"], pods[workload["metadata"]["name"]])
        for spread in pod_of(workload)["topologySpreadConstraints"]:
            assert selects(spread["labelSelector"], pods[workload["metadata"]["name"]])


def _workload(objects, name: str) -> dict:
    (found,) = [each for each in of_kind(objects, *WORKLOADS) if each["metadata"]["name"] == name]
    return found


@every_overlay
def test_every_config_secret_and_claim_that_a_pod_names_exists(name):
    objects = overlay(name)
    maps = {each["metadata"]["name"]: set(each["data"]) for each in of_kind(objects, "ConfigMap")}
    claims = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    promised = {"postgres", "s2s-secrets"}
    for workload in of_kind(objects, *WORKLOADS):
        for volume in pod_of(workload).get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims
        mounts = {volume["name"] for volume in pod_of(workload).get("volumes", [])}
        mounts |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for container in containers_of(workload):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= mounts
            for source in container.get("envFrom", []):
                if config := source.get("configMapRef"):
                    assert config["name"] in maps
                else:
                    assert source["secretRef"]["name"] in promised
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                if config := source.get("configMapKeyRef"):
                    assert config["key"] in maps[config["name"]]
                if secret := source.get("secretKeyRef"):
                    assert secret["name"] in promised


def _policies_on(objects, labels: dict, direction: str) -> list[dict]:
    return [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy")
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], labels)
    ]


def _may(objects, source: str | None, target: str, port: int) -> bool:
    """Kubernetes' rules: a pod that any policy selects takes only what a policy allows. `source` None: from outside."""
    target_labels = {"app.kubernetes.io/name": target}
    allowed_in = any(
        port in [each["port"] for each in rule["ports"]]
        and ("from" not in rule or any(_peer(peer, source) for peer in rule["from"]))
        for policy in _policies_on(objects, target_labels, "Ingress")
        for rule in policy.get("ingress") or []
    )
    if source is None:
        return allowed_in
    allowed_out = any(
        port in [each["port"] for each in rule["ports"]] and any(_peer(peer, target) for peer in rule["to"])
        for policy in _policies_on(objects, {"app.kubernetes.io/name": source}, "Egress")
        for rule in policy.get("egress") or []
    )
    return allowed_in and allowed_out


def _peer(peer: dict, name: str | None) -> bool:
    return name is not None and "podSelector" in peer and selects(peer["podSelector"], {"app.kubernetes.io/name": name})


@every_overlay
def test_pods_reach_what_they_need_and_nothing_else(name):
    objects = overlay(name)
    everyone = ["frontend", "api-service", "worker", "model-server", "migrate", "postgres", "stranger", None]
    wanted = {(None, "frontend", 8080), ("frontend", "api-service", 9000)}
    wanted |= {("api-service", "model-server", 8080), ("worker", "model-server", 8080)}
    if name == "local":
        wanted |= {(who, "postgres", 5432) for who in ("api-service", "worker", "migrate")}
    ports = {"frontend": 8080, "api-service": 9000, "worker": 9100, "model-server": 8080, "postgres": 5432}
    targets = [target for target in ports if name == "local" or target != "postgres"]
    # A pod that takes traffic from everywhere (the frontend) may be reached by any pod whose own egress allows it.
    found = {(s, t, ports[t]) for s in everyone for t in targets if s != t and _may(objects, s, t, ports[t])}
    assert found == wanted
    assert named(objects, "NetworkPolicy", "default-deny")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


@every_overlay
def test_nobody_reaches_the_management_port_of_the_model_server(name):
    objects = overlay(name)
    server = named(objects, "Deployment", "model-server")
    ports = {port["containerPort"] for container in containers_of(server) for port in container["ports"]}
    assert ports == {8080, 8082}
    assert {port["port"] for port in named(objects, "Service", "model-server")["spec"]["ports"]} == {8080}
    for policy in _policies_on(objects, {"app.kubernetes.io/name": "model-server"}, "Ingress"):
        for rule in policy.get("ingress") or []:
            assert {port["port"] for port in rule["ports"]} <= {8080, 8082, 9000, 9100}
            outside = [peer for peer in rule["from"] if "podSelector" not in peer]
            assert not outside or 8080 not in {port["port"] for port in rule["ports"]}
    settings = [each["data"] for each in of_kind(objects, "ConfigMap") if "TS_INFERENCE_ADDRESS" in each["data"]]
    assert len(settings) == 1
    assert not any("MANAGEMENT" in key for key in settings[0]), "it stays the Unix socket of config.properties"


@every_overlay
def test_a_model_server_starts_on_ready_workers_and_drains_before_it_stops(name):
    server = named(overlay(name), "Deployment", "model-server")
    (container,) = pod_of(server)["containers"]
    ready = ["python", "-m", "model_deployment.health", "ready"]
    assert container["startupProbe"]["exec"]["command"] == ready
    assert container["readinessProbe"]["exec"]["command"] == ready
    assert "ping" not in json.dumps(container)
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1] == "drain"
    drain_s, stop_s = 600, 30
    assert pod_of(server)["terminationGracePeriodSeconds"] >= drain_s + stop_s
    probe = container["startupProbe"]
    assert server["spec"]["progressDeadlineSeconds"] > probe["periodSeconds"] * probe["failureThreshold"]


@every_overlay
def test_an_update_takes_no_replica_away_before_its_successor_is_ready(name):
    for workload in of_kind(overlay(name), "Deployment"):
        gpu = "nvidia.com/gpu" in json.dumps(workload)
        expected = {"maxSurge": 0, "maxUnavailable": 1} if gpu else {"maxSurge": 1, "maxUnavailable": 0}
        assert workload["spec"]["strategy"]["rollingUpdate"] == expected


def test_a_gpu_model_server_lands_on_a_gpu_node_and_gets_one_gpu():
    pod = pod_of(named(overlay("gke"), "Deployment", "model-server"))
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} == {each["key"] for each in pod["tolerations"]}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia" not in json.dumps(overlay("local")).replace("requests.nvidia.com/gpu", "")


def test_model_servers_scale_on_queue_age_from_nothing():
    objects = overlay("gke")
    scaler = named(objects, "ScaledObject", "model-server")["spec"]
    assert (scaler["minReplicaCount"], scaler["maxReplicaCount"]) == (0, 8)
    assert "s2s_oldest_queued_job_seconds" in scaler["triggers"][0]["metadata"]["query"]
    assert [each["metadata"]["name"] for each in of_kind(objects, "HorizontalPodAutoscaler")] == ["api-service"]


@every_overlay
def test_the_quota_has_room_for_the_largest_scale_and_an_update(name):
    objects = overlay(name)
    quota = named(objects, "ResourceQuota", "s2s")["spec"]["hard"]
    largest = {w["metadata"]["name"]: w["spec"].get("replicas", 1) for w in of_kind(objects, *WORKLOADS)}
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        largest[scaler["spec"]["scaleTargetRef"]["name"]] = scaler["spec"]["maxReplicas"]
    for scaler in of_kind(objects, "ScaledObject"):
        largest[scaler["spec"]["scaleTargetRef"]["name"]] = scaler["spec"]["maxReplicaCount"]
    pods = cpu = gib = gpus = 0
    for workload in of_kind(objects, *WORKLOADS):
        strategy = workload["spec"].get("strategy", {}).get("rollingUpdate", {})
        count = largest[workload["metadata"]["name"]] + strategy.get("maxSurge", 0)
        pods += count
        for container in containers_of(workload):
            resources = container["resources"]
            cpu += count * _cores(resources["requests"]["cpu"])
            gib += count * _gib(resources["limits"]["memory"])
            gpus += count * int(resources["limits"].get("nvidia.com/gpu", 0))
    assert pods <= int(quota["pods"])
    assert cpu <= _cores(quota["requests.cpu"])
    assert gib <= _gib(quota["limits.memory"])
    assert gpus <= int(quota["requests.nvidia.com/gpu"])


def _cores(text: str) -> float:
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _gib(text: str) -> float:
    return float(text[:-2]) * {"Ki": 2**-20, "Mi": 2**-10, "Gi": 1}[text[-2:]]


@every_overlay
def test_every_setting_is_one_that_the_service_knows(name):
    known = {f"S2S_{field.upper()}" for field in Settings.model_fields}
    for config in of_kind(overlay(name), "ConfigMap"):
        assert {key for key in config["data"] if key.startswith("S2S_")} <= known


def test_metrics_are_scraped_from_ports_that_exist():
    objects = overlay("gke")
    for monitor in of_kind(objects, "PodMonitoring"):
        assert set(monitor["spec"]) == {"selector", "endpoints"}
        name = monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
        ports = {port["name"] for c in containers_of(_workload(objects, name)) for port in c.get("ports", [])}
        for endpoint in monitor["spec"]["endpoints"]:
            assert set(endpoint) == {"port", "path", "interval"}
            assert endpoint["port"] in ports


def test_whoever_counts_what_the_dashboard_shows_is_scraped():
    dashboard = (ROOT / "deployment/monitoring/gateway-dashboard.json").read_text()
    shown = set(re.findall("s2s_[a-z_]+", dashboard))
    assert shown >= COUNTED_BY_WORKERS
    counting = {"worker" if name in COUNTED_BY_WORKERS else "api-service" for name in shown}
    for objects in (overlay("gke"), list(yaml.safe_load_all(render(K8S / "tests" / "operator")))):
        scraped = {}
        for monitor in of_kind(objects, "PodMonitoring", "PodMonitor", "ServiceMonitor"):
            name = monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
            containers = containers_of(_workload(objects, name))
            ports = {port["name"]: port["containerPort"] for each in containers for port in each.get("ports", [])}
            for endpoint in monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]:
                scraped[name] = ports[endpoint["port"]]
        assert counting <= set(scraped)
        for name, port in scraped.items():
            policies = _policies_on(objects, {"app.kubernetes.io/name": name}, "Ingress")
            rules = [rule for policy in policies for rule in policy.get("ingress") or []]
            there = [rule["from"] for rule in rules if {"protocol": "TCP", "port": port} in rule["ports"]]
            assert any("namespaceSelector" in peer for peers in there for peer in peers), f"nobody may scrape {name}"
        (worker,) = [each for each in containers_of(_workload(objects, "worker")) if each["name"] == "worker"]
        assert {"name": "S2S_WORKER_METRICS_PORT", "value": str(scraped["worker"])} in worker["env"]


def test_long_event_streams_are_not_cut_by_the_load_balancer():
    objects = overlay("gke")
    policy = named(objects, "GCPBackendPolicy", "frontend")["spec"]
    assert policy["targetRef"] == {"group": "", "kind": "Service", "name": "frontend"}
    assert policy["default"]["timeoutSec"] >= 1800
    assert policy["default"]["logging"] == {"enabled": False}, "it would write the tokens of shared links"
    (rule,) = named(objects, "HTTPRoute", "s2s")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "frontend", "port": 8080}]


def test_with_tls_plain_http_only_leads_to_https():
    objects = list(yaml.safe_load_all(render(K8S / "tests" / "tls")))
    assert [each["name"] for each in named(objects, "Gateway", "s2s")["spec"]["listeners"]] == ["http", "https"]
    assert named(objects, "HTTPRoute", "s2s")["spec"]["parentRefs"][0]["sectionName"] == "https"
    redirect = named(objects, "HTTPRoute", "to-https")["spec"]
    assert redirect["parentRefs"][0]["sectionName"] == "http"
    assert redirect["rules"][0]["filters"][0]["requestRedirect"]["scheme"] == "https"


def test_local_secrets_are_new_each_time_and_valid():
    first, second = (run(K8S / "local-secrets.sh").stdout for _ in range(2))
    assert first != second
    postgres, service = yaml.safe_load_all(first)
    assert len(postgres["stringData"]["password"]) == 48
    assert postgres["stringData"]["password"] in service["stringData"]["S2S_DATABASE_URL"]
