"""Names and fingerprints of the installed models, without torch."""

import json
from pathlib import Path

from ulcodec.errors import ModelError

WEIGHTS = Path(__file__).parent.parent / "weights"


def model_directory(model: str | Path) -> Path:
    """Find the directory of a shipped model by its name, or of any model by its path.

    Raises ModelError if there is none.
    """
    for candidate in (WEIGHTS / str(model), Path(model)):
        if (candidate / "config.json").is_file():
            return candidate
    shipped = ", ".join(sorted(set(installed_fingerprints().values()))) or "none"
    raise ModelError(f"no model {str(model)!r}: it is neither a shipped model ({shipped}) nor a model directory")


def installed_fingerprints() -> dict[str, str]:
    """Map the fingerprints that pictures and sequences carry (8 hexadecimal digits) to the name of a shipped model."""
    names: dict[str, str] = {}
    for file in sorted(WEIGHTS.glob("*/config.json")):
        document = json.loads(file.read_text())
        digests = (document["coding_sha256"], document.get("video", {}).get("sequence_sha256"))
        names |= {digest[:8]: document["name"] for digest in digests if digest}
    return names
