"""The same stages as a Kubeflow pipeline (KFP v2), one container image a stage.

    python -m workflow.cli --all                                   writes src/workflow/pipeline.yaml
    python -m workflow.cli --train --out train.yaml                one stage or several
    python -m workflow.cli --all --submit http://kfp:8080 --root gs://bucket/s2s
    python -m workflow.cli --all --submit vertex --project P --region R --root gs://bucket/s2s
    python -m workflow.cli --all --local --root runs/kfp --csv wanted.csv     here, as processes, without containers

A stage is one step or two: `--train` trains and evaluates; `--deploy` packs the .mar, promotes the bundle if it is
better and, with `--cluster`, rolls it out. Steps meet in ROOT (`s2s.data.stages`) and are chained by digests, which are
what the cache looks at.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kfp import compiler, dsl, local

from workflow.components import BODIES

HERE = Path(__file__).resolve().parent
COMPILED = HERE / "pipeline.yaml"
STAGES = ("data-collector", "data-preprocessor", "feature-extractor", "train", "deploy")
STEPS = {stage: (stage,) for stage in STAGES} | {"train": ("train", "evaluate"), "deploy": ("export", "deploy")}
IMAGE_OF = {
    "data-collector": "data_collection",
    "data-preprocessor": "data_preprocessing",
    "feature-extractor": "feature_extraction",
    "train": "train",
    "evaluate": "train",
    "export": "train",
    "deploy": "train",
}
NEEDS = {  # CPU, memory; training asks for a GPU by --gpu
    "data-collector": ("2", "4G"),
    "data-preprocessor": ("4", "8G"),
    "feature-extractor": ("4", "8G"),
    "train": ("8", "32G"),
    "evaluate": ("4", "8G"),
    "export": ("1", "4G"),
    "deploy": ("1", "4G"),
}
RETRIES = {step: 3 for step in NEEDS} | {"deploy": 1}  # a rollout that was undone is hardly better the third time
# Doing these twice changes nothing: training says again which run is the latest, deploy looks at what is served now.
NEVER_CACHED = ("train", "deploy")


def make_pipeline(
    stages: Sequence[str] = STAGES,
    *,
    registry: str = "silence-to-sound",
    tag: str = "latest",
    gpu: str = "",
    cache: bool = True,
):
    """The pipeline of these stages, in their order. gpu: an accelerator such as nvidia-l4, for training."""
    steps = [step for stage in STAGES if stage in stages for step in STEPS[stage]]
    parts = {
        step: dsl.component(BODIES[step], base_image=f"{registry}/{IMAGE_OF[step]}:{tag}", install_kfp_package=False)
        for step in steps
    }

    def placed(step: str, **inputs):
        task = parts[step](**inputs)
        cpu, memory = NEEDS[step]
        task.set_display_name(step).set_cpu_limit(cpu).set_memory_limit(memory)
        # The others' key has the digest of what came before. The first has none: what it reads may have grown since.
        task.set_caching_options(cache and step != steps[0] and step not in NEVER_CACHED)
        task.set_retry(num_retries=RETRIES[step], backoff_duration="30s", backoff_factor=2.0)
        if gpu and step == "train":
            task.set_accelerator_type(gpu).set_accelerator_limit(1)
        return task

    @dsl.pipeline(name="silence-to-sound", description="From videos to a bundle that is served")
    def pipeline(
        root: str,
        csv: str = "",
        address: str = "",
        labels: list = [],  # noqa: B006  kfp reads it as the parameter's default
        licence: str = "unknown",
        per_minute: float = 30.0,
        workers: int = 4,
        clip_recipe: str = "own",
        kinds: dict = {},  # noqa: B006
        published: str = "",
        recipe: str = "small",
        device: str = "cpu",
        force_deploy: bool = False,
        cluster: str = "",
        namespace: str = "s2s",
        rollout_within_s: float = 1200.0,
    ):
        inputs = {
            "data-collector": {
                "csv": csv,
                "address": address,
                "labels": labels,
                "licence": licence,
                "per_minute": per_minute,
                "workers": workers,
            },
            "data-preprocessor": {"recipe": clip_recipe, "kinds": kinds, "workers": workers},
            "feature-extractor": {"recipe": recipe, "published": published, "workers": workers},
            "train": {"recipe": recipe, "device": device},
            "evaluate": {"recipe": recipe},
            "export": {},
            "deploy": {
                "force": force_deploy,
                "cluster": cluster,
                "namespace": namespace,
                "within_s": rollout_within_s,
            },
        }
        digest = ""
        for step in steps:
            after = {} if step == "data-collector" else {"after": digest}
            digest = placed(step, root=root, **inputs[step], **after).outputs["Output"]

    return pipeline


def compile_to(path: Path, pipeline) -> None:
    compiler.Compiler().compile(pipeline, str(path))


def run_here(pipeline, arguments: dict, output: Path) -> None:
    """Runs the pipeline with processes of this interpreter. Raises when a stage fails."""
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(output), raise_on_error=True)
    pipeline(**arguments)


def submit_to_kfp(host: str, package: Path, arguments: dict) -> str:
    """Returns the run's id."""
    from kfp.client import Client

    return Client(host=host).create_run_from_pipeline_package(str(package), arguments=arguments).run_id


def submit_to_vertex(package: Path, arguments: dict, *, project: str, region: str, endpoint: str = "") -> str:
    """Returns the job's name. Signs in with the credentials of the environment."""
    import google.auth
    import google.auth.transport.requests
    import yaml

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    body = {
        "displayName": "silence-to-sound",
        "pipelineSpec": next(yaml.safe_load_all(package.read_text())),
        "runtimeConfig": {"gcsOutputDirectory": f"{arguments['root']}/pipeline", "parameterValues": arguments},
    }
    host = endpoint or f"https://{region}-aiplatform.googleapis.com"
    session = google.auth.transport.requests.AuthorizedSession(credentials)
    answer = session.post(f"{host}/v1/projects/{project}/locations/{region}/pipelineJobs", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()["name"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for stage in STAGES:
        parser.add_argument(
            f"--{stage}", action="store_true", help=f"image {IMAGE_OF[stage]}: {', '.join(STEPS[stage])}"
        )
    parser.add_argument("--all", action="store_true", help="every stage, in order")
    parser.add_argument("--out", type=Path, default=COMPILED, help="where the compiled pipeline goes")
    parser.add_argument("--registry", default="silence-to-sound", help="images are REGISTRY/STAGE:TAG")
    parser.add_argument("--tag", default="latest")
    parser.add_argument("--gpu", default="", help="accelerator of the training stage, e.g. nvidia-l4")
    parser.add_argument("--no-cache", action="store_true")
    parser.add_argument("--root", default="", help="where the stages meet: gs://, s3://, or a folder with --local")
    parser.add_argument("--csv", default="", help="list of clips, VGG-Sound's format, or the folder of VAS")
    parser.add_argument("--address", default="", help="where a video of the csv is; {id} is its id")
    parser.add_argument("--label", action="append", default=[], help="collect only this label; may be repeated")
    parser.add_argument("--kind", action="append", default=[], metavar="LABEL=KIND", help="what a label means")
    parser.add_argument("--licence", default="unknown", help="of videos whose source names none")
    parser.add_argument("--per-minute", type=float, default=30.0, help="downloads started in a minute, at most")
    parser.add_argument("--recipe", default="small", help="of training")
    parser.add_argument("--clip-recipe", default="own", choices=["own", "published"], help="of the clips")
    parser.add_argument("--published", default="", metavar="BUNDLE", help="also write REGNET's files, by this bundle")
    parser.add_argument("--cluster", default="", help="roll out to: current, context:NAME, gke:PROJECT/LOCATION/NAME")
    parser.add_argument("--namespace", default="s2s", help="of the service in that cluster")
    parser.add_argument("--force-deploy", action="store_true", help="even when the bundle is not better")
    parser.add_argument("--submit", default="", metavar="HOST|vertex", help="a KFP endpoint, or Vertex AI")
    parser.add_argument("--project", default="")
    parser.add_argument("--region", default="")
    parser.add_argument("--local", action="store_true", help="run here, as processes, without containers")
    args = parser.parse_args(argv)
    chosen = [stage for stage in STAGES if args.all or getattr(args, stage.replace("-", "_"))]
    if not chosen:
        parser.error("choose stages, or --all")
    if (args.submit or args.local) and not args.root:
        parser.error("--submit and --local need --root")
    if args.submit == "vertex" and not (args.project and args.region):
        parser.error("--submit vertex needs --project and --region")
    if bad := [said for said in args.kind if "=" not in said]:
        parser.error(f"--kind {bad[0]} is not LABEL=KIND")
    pipeline = make_pipeline(chosen, registry=args.registry, tag=args.tag, gpu=args.gpu, cache=not args.no_cache)
    arguments = {"root": args.root, "recipe": args.recipe, "device": "cuda" if args.gpu else "cpu"}
    arguments |= {"kinds": dict(said.rsplit("=", 1) for said in args.kind)} if args.kind else {}
    arguments |= {"labels": args.label} if args.label else {}
    for name in ("csv", "address", "licence", "per_minute", "clip_recipe", "published", "cluster", "namespace"):
        arguments |= {name: getattr(args, name)} if getattr(args, name) != parser.get_default(name) else {}
    arguments |= {"force_deploy": True} if args.force_deploy else {}
    if args.local:
        run_here(pipeline, arguments, Path(args.root) / "pipeline")
    elif args.submit:
        with TemporaryDirectory() as scratch:
            package = Path(scratch) / "pipeline.yaml"
            compile_to(package, pipeline)
            if args.submit == "vertex":
                name = submit_to_vertex(package, arguments, project=args.project, region=args.region)
            else:
                name = submit_to_kfp(args.submit, package, arguments)
        print(json.dumps({"run": name}))
    else:
        compile_to(args.out, pipeline)
        print(args.out)


if __name__ == "__main__":
    main()
