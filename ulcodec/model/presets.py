"""The table of all named configurations."""

from ulcodec.errors import ModelError
from ulcodec.model.config import (
    BASE,
    PAPER,
    PAPER_TINY,
    PAPER_VIDEO,
    SMALL,
    TINY,
    TINY_VIDEO,
    ModelConfig,
    PaperConfig,
)

PRESETS: dict[str, ModelConfig | PaperConfig] = {
    c.name: c for c in (TINY, SMALL, BASE, PAPER, PAPER_TINY, PAPER_VIDEO, TINY_VIDEO)
}


def preset(name: str) -> ModelConfig | PaperConfig:
    """Look up a configuration by name. Raises ModelError for an unknown name."""
    if name not in tuple(PRESETS):
        raise ModelError(f"unknown configuration {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
