"""All variants of all families."""

import sys

from . import gemma_family, llama_family, other_families
from .variant import Variant

VARIANTS: list[Variant] = llama_family.VARIANTS + gemma_family.VARIANTS + other_families.VARIANTS


def choose(names: list[str]) -> list[Variant]:
    """The variants that are named, each name with those that begin with it and a hyphen."""
    chosen = [
        variant
        for variant in VARIANTS
        if not names
        or any(variant.name == name or variant.name.startswith(f"{name}-") for name in names)
    ]
    unknown = [
        n for n in names if not any(v.name == n or v.name.startswith(f"{n}-") for v in VARIANTS)
    ]
    if unknown:
        sys.exit(
            f"no such family: {', '.join(unknown)}; there are {', '.join(v.name for v in VARIANTS)}"
        )
    return chosen
