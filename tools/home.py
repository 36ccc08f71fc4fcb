"""Where the project lives and which release its readers get.

Both are written once, in pyproject.toml; every address below follows from them, and tests/test_home.py holds every copy
in prose, notebooks and settings to these.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

VERSION: str = PROJECT["version"]
TAG = f"v{VERSION}"
REPOSITORY: str = PROJECT["urls"]["Repository"]
OWNER, NAME = REPOSITORY.removeprefix("https://github.com/").split("/")

INSTALL = f"git+{REPOSITORY}@{TAG}"  # what pip is told
SITE = f"https://{OWNER}.github.io/{NAME}"
FILES = f"{REPOSITORY}/blob/main"
IMAGES = f"https://raw.githubusercontent.com/{OWNER}/{NAME}/main"
COLAB = f"https://colab.research.google.com/github/{OWNER}/{NAME}/blob/{TAG}"  # the notebook that fits the library
