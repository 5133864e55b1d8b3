"""The same stages as a Kubeflow pipeline (KFP v2), one container image a stage.

    python -m workflow.cli --all                                   writes src/workflow/pipeline.yaml
    python -m workflow.cli --train --out train.yaml                one stage or several
    python -m workflow.cli --all --submit http://kfp:8080 --root gs://bucket/s2s
    python -m workflow.cli --all --submit vertex --project P --region R --root gs://bucket/s2s
    python -m workflow.cli --all --local --root runs/kfp --csv wanted.csv     here, as processes, without containers

Stages meet in ROOT (`s2s.data.stages`) and are chained by digests, which are what the cache looks at.
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
IMAGE_OF = {
    "data-collector": "data_collection",
    "data-preprocessor": "data_preprocessing",
    "feature-extractor": "feature_extraction",
    "train": "train",
    "deploy": "train",
}
NEEDS = {  # CPU, memory; training asks for a GPU by --gpu
    "data-collector": ("2", "4G"),
    "data-preprocessor": ("4", "8G"),
    "feature-extractor": ("4", "8G"),
    "train": ("8", "32G"),
    "deploy": ("1", "4G"),
}
RETRIES = 3


def make_pipeline(
    stages: Sequence[str] = STAGES,
    *,
    registry: str = "silence-to-sound",
    tag: str = "latest",
    gpu: str = "",
    cache: bool = True,
):
    """The pipeline of these stages, in their order. gpu: an accelerator such as nvidia-l4, for training."""
    parts = {
        stage: dsl.component(BODIES[stage], base_image=f"{registry}/{IMAGE_OF[stage]}:{tag}", install_kfp_package=False)
        for stage in stages
    }

    def placed(stage: str, **inputs):
        task = parts[stage](**inputs)
        cpu, memory = NEEDS[stage]
        task.set_display_name(stage).set_cpu_limit(cpu).set_memory_limit(memory).set_caching_options(cache)
        task.set_retry(num_retries=RETRIES, backoff_duration="30s", backoff_factor=2.0)
        if gpu and stage == "train":
            task.set_accelerator_type(gpu).set_accelerator_limit(1)
        return task

    @dsl.pipeline(name="silence-to-sound", description="From videos to a bundle that is served")
    def pipeline(
        root: str,
        csv: str = "",
        address: str = "",
        per_minute: float = 30.0,
        workers: int = 4,
        clip_recipe: str = "own",
        recipe: str = "small",
        device: str = "cpu",
        force_deploy: bool = False,
    ):
        inputs = {
            "data-collector": {"csv": csv, "address": address, "per_minute": per_minute, "workers": workers},
            "data-preprocessor": {"recipe": clip_recipe, "workers": workers},
            "feature-extractor": {"workers": workers},
            "train": {"recipe": recipe, "device": device},
            "deploy": {"force": force_deploy},
        }
        digest = ""
        for stage in [stage for stage in STAGES if stage in stages]:
            after = {} if stage == "data-collector" else {"after": digest}
            digest = placed(stage, root=root, **inputs[stage], **after).outputs["Output"]

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
        parser.add_argument(f"--{stage}", action="store_true", help=f"the stage {IMAGE_OF[stage]}")
    parser.add_argument("--all", action="store_true", help="every stage, in order")
    parser.add_argument("--out", type=Path, default=COMPILED, help="where the compiled pipeline goes")
    parser.add_argument("--registry", default="silence-to-sound", help="images are REGISTRY/STAGE:TAG")
    parser.add_argument("--tag", default="latest")
    parser.add_argument("--gpu", default="", help="accelerator of the training stage, e.g. nvidia-l4")
    parser.add_argument("--no-cache", action="store_true")
    parser.add_argument("--root", default="", help="where the stages meet: gs://, s3://, or a folder with --local")
    parser.add_argument("--csv", default="", help="list of clips, VGG-Sound's format, or the folder of VAS")
    parser.add_argument("--address", default="", help="where a video of the csv is; {id} is its id")
    parser.add_argument("--recipe", default="small", help="of training")
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
    pipeline = make_pipeline(chosen, registry=args.registry, tag=args.tag, gpu=args.gpu, cache=not args.no_cache)
    arguments = {"root": args.root, "recipe": args.recipe, "device": "cuda" if args.gpu else "cpu"}
    arguments |= {name: getattr(args, name) for name in ("csv", "address") if getattr(args, name)}
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
