"""Build the networks of a configuration."""

from ulcodec.model.config import ModelConfig, PaperConfig
from ulcodec.model.paper import PaperModel
from ulcodec.model.unified import UnifiedLatentModel


def build_model(config: ModelConfig | PaperConfig) -> UnifiedLatentModel | PaperModel:
    """Networks of a configuration, with fresh weights."""
    return PaperModel(config) if isinstance(config, PaperConfig) else UnifiedLatentModel(config)
