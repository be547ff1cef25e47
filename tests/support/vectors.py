"""Where the public vectors lie: `$KMS_VECTORS`, or `../shared/vectors` beside the project."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "vectors"


def folder(name: str) -> Path:
    """A folder of the vectors; a test module skips itself where they are absent."""
    path = Path(os.environ.get("KMS_VECTORS", _BESIDE)) / name
    if not path.is_dir():
        pytest.skip(f"no public vectors in {path}: set KMS_VECTORS", allow_module_level=True)
    return path


def load_json(path: Path) -> Any:
    """A JSON file, gzipped or not."""
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
