"""Every named configuration, and the model that each builds."""

from ulcodec.errors import ModelError
from ulcodec.model.config import BASE, SMALL, TINY, ModelConfig
from ulcodec.model.paper import PAPER, PAPER_TINY, PaperConfig, PaperModel
from ulcodec.model.unified import UnifiedLatentModel

PRESETS: dict[str, ModelConfig | PaperConfig] = {c.name: c for c in (TINY, SMALL, BASE, PAPER, PAPER_TINY)}


def preset(name: str) -> ModelConfig | PaperConfig:
    """A configuration by name. Raises ModelError for one that is not known."""
    if name not in PRESETS:
        raise ModelError(f"unknown configuration {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def build_model(config: ModelConfig | PaperConfig) -> UnifiedLatentModel | PaperModel:
    """Networks of a configuration, with fresh weights."""
    return PaperModel(config) if isinstance(config, PaperConfig) else UnifiedLatentModel(config)
