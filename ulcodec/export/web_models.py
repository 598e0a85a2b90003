"""Models for the decoder in a browser: a folder that a web server sends as it is.

The name of every file has a hash of its contents, so that caches may keep it for ever. `models.json` changes: it lists
the models by the fingerprints of the files that they decode, each with `name`, `config` and `files`, the names of its
files in the folder by their names in a deployment.
"""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ulcodec.errors import ModelError
from ulcodec.export.deployment import export_deployment
from ulcodec.format.container import FINGERPRINT_BYTES
from ulcodec.io.files import atomic_write
from ulcodec.store.stored_integers import open_integers

LIST = "models.json"
LEFT_OUT = ("config.json", "graphs.json", "thumbnail.onnx")
"""Files of a deployment for decoding that the browser does not read."""

HASH_DIGITS = 16


def publish_model(model: str | Path, folder: Path) -> list[Path]:
    """Add a model to a folder of models for browsers, or replace it there. Other files of the folder stay.

    Returns the files of the model. Raises ModelError for a missing or broken model, or if the folder has a list that is
    none; MissingPackageError as `export_deployment`.
    """
    listed = read_list(folder)
    with TemporaryDirectory() as temporary:
        deployment = Path(temporary) / "model"
        export_deployment(model, deployment, "decoding")
        integers = open_integers(deployment)
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for file in sorted(deployment.iterdir()):
            if file.name not in LEFT_OUT:
                data = file.read_bytes()
                digits = hashlib.sha256(data).hexdigest()[:HASH_DIGITS]
                files[file.name] = f"{file.stem}-{digits}{file.suffix}"
                atomic_write(folder / files[file.name], data)
    fingerprint = integers.pictures.fingerprint[:FINGERPRINT_BYTES].hex()
    listed[fingerprint] = {"name": integers.name, "config": integers.pictures.config.to_json(), "files": files}
    atomic_write(folder / LIST, (json.dumps(listed, indent=1) + "\n").encode())
    return [folder / name for name in files.values()]


def read_list(folder: Path) -> dict[str, Any]:
    """Read the list of models of a folder: empty if it has none. Raises ModelError."""
    try:
        listed = json.loads((folder / LIST).read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder / LIST} is no list of models: {error}") from error
    if not isinstance(listed, dict):
        raise ModelError(f"{folder / LIST} is no list of models")
    return listed
