"""What each step of the pipeline runs inside its image: KFP ships the source of these functions alone.

So all they need is imported inside them, and annotations are real types (no `annotations` of `__future__`).
"""

from kfp import dsl


def data_collector(
    root: str, csv: str, address: str, per_minute: float, workers: int, made: dsl.Output[dsl.Dataset]
) -> str:
    from s2s.data.stages import collect

    digest, facts = collect(root, csv, address, per_minute, workers)
    made.metadata.update(place=f"{root}/raw", **facts)
    return digest


def data_preprocessor(root: str, recipe: str, workers: int, after: str, made: dsl.Output[dsl.Dataset]) -> str:
    from s2s.data.stages import preprocess

    digest, facts = preprocess(root, recipe, workers)
    made.metadata.update(place=f"{root}/clips", **facts)
    return digest


def feature_extractor(root: str, workers: int, after: str, made: dsl.Output[dsl.Dataset]) -> str:
    from s2s.data.stages import features

    digest, facts = features(root, workers)
    made.metadata.update(place=f"{root}/features", **facts)
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
    made.metadata.update(place=f"{root}/run/bundle")
    for name, value in facts.items():
        metrics.log_metric(name, value)
    return digest


def deploy(root: str, force: bool, after: str, made: dsl.Output[dsl.Model]) -> str:
    from s2s.data.stages import deploy

    digest, facts = deploy(root, force)
    made.metadata.update(place=f"{root}/bundles", **facts)
    return digest


BODIES = {
    "data-collector": data_collector,
    "data-preprocessor": data_preprocessor,
    "feature-extractor": feature_extractor,
    "train": train,
    "deploy": deploy,
}
