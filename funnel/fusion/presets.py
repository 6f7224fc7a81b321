"""Where to search for a fusion: its form, beside the engine's settings."""

from funnel.spaces import Choice, Presets, Space, Spaces, named


def forms() -> Space:
    """The form of the fusion."""
    return {"fusion": Choice(("product", "sum", "rank"))}


PRESETS: Presets = {}
SPACES: Spaces = named(forms)
