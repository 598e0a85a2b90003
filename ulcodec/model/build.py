"""Build the networks of any configuration."""

from ulcodec.model.config import ModelConfig, PaperConfig
from ulcodec.model.paper import PaperModel
from ulcodec.model.unified import UnifiedLatentModel


def build_model(config: ModelConfig | PaperConfig) -> UnifiedLatentModel | PaperModel:
    """Build the networks of a configuration, with initial weights."""
    return PaperModel(config) if isinstance(config, PaperConfig) else UnifiedLatentModel(config)
