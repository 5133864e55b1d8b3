"""What each step of the pipeline runs inside its image: KFP ships the source of these functions alone.

So all they need is imported inside them, and annotations are real types (no `annotations` of `__future__`).
"""

from kfp import dsl


def data_collector(
    root: str,
    csv: str,
    address: str,
    labels: list,
    licence: str,
    per_minute: float,
    workers: int,
    made: dsl.Output[dsl.Dataset],
) -> str:
    from s2s.data.stages import collect

    digest, facts = collect(root, csv, address, labels, per_minute, workers, licence)
    made.metadata.update(place=f"{root}/raw", **facts)
    return digest


def data_preprocessor(
    root: str, recipe: str, kinds: dict, workers: int, after: str, made: dsl.Output[dsl.Dataset]
) -> str:
    from s2s.data.stages import preprocess

    digest, facts = preprocess(root, recipe, kinds, workers)
    made.metadata.update(place=f"{root}/clips", **facts)
    return digest


def feature_extractor(
    root: str, recipe: str, published: str, workers: int, after: str, made: dsl.Output[dsl.Dataset]
) -> str:
    from s2s.data.stages import features

    digest, facts = features(root, recipe, published, workers)
    made.metadata.update(facts)
    return digest


def train(
    root: str,
    recipe: str,
    device: str,
    after: str,
    made: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    from s2s.data.stages import train

    digest, facts = train(root, recipe, device)
    made.metadata.update(place=facts.pop("place"))
    for name, value in facts.items():
        metrics.log_metric(name, value)
    return digest


def evaluate(
    root: str,
    recipe: str,
    after: str,
    report: dsl.Output[dsl.HTML],
    own_clips_report: dsl.Output[dsl.HTML],
    study: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    from pathlib import Path

    from s2s.data.stages import evaluate

    study.path += ".json"
    pages = {"renders": [Path(report.path), Path(study.path)], "own": [Path(own_clips_report.path)]}
    digest, figures = evaluate(root, recipe, pages=pages)
    for name, value in figures.items():
        metrics.log_metric(name, value)
    return digest


def export(root: str, after: str, mar: dsl.Output[dsl.Model]) -> str:
    from pathlib import Path

    from s2s.data.stages import export

    mar.path += ".mar"
    digest, facts = export(root, Path(mar.path))
    mar.metadata.update(facts)
    return digest


def deploy(
    root: str, force: bool, cluster: str, namespace: str, within_s: float, after: str, made: dsl.Output[dsl.Model]
) -> str:
    from s2s.data.stages import deploy

    digest, facts = deploy(root, force, cluster, namespace, within_s)
    made.metadata.update(place=f"{root}/bundles/{facts['served']}", **facts)
    return digest


BODIES = {
    "data-collector": data_collector,
    "data-preprocessor": data_preprocessor,
    "feature-extractor": feature_extractor,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "deploy": deploy,
}
