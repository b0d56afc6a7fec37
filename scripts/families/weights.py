"""Random weights that make every part of a model matter.

Each tensor is seeded by its name, so that a tensor that is added changes no other, and the text part
of a multimodal checkpoint is the same model as without the other parts. Matrices keep the size of
what they multiply; queries and keys are larger, so that attention is far from even; norms are around
their mean by ± 0.3; biases are as large as a third of what they are added to. The last norm's weights
have random signs: with tied embeddings, the token that was read would otherwise be predicted next."""

import math
import zlib

import torch

LAST_NORMS = ("model.norm", "language_model.norm", "ln_f", "final_layer_norm", "final_layernorm")


def fill(model: torch.nn.Module, seed: int, options: dict):
    """Sets every parameter and every saved buffer of `model`."""
    convolutions = {
        name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"
    }
    saved = set(model.state_dict())
    tensors = dict(model.named_parameters()) | {
        name: buffer for name, buffer in model.named_buffers() if name in saved
    }
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                continue
            own = name.replace("language_model.", "")
            generator = torch.Generator().manual_seed(zlib.crc32(own.encode()) ^ seed)
            noise = torch.randn(tensor.shape, generator=generator)
            module = name.rpartition(".")[0]
            tensor.copy_(scaled(name, noise, module in convolutions, options))


def scaled(name: str, noise: torch.Tensor, transposed: bool, options: dict) -> torch.Tensor:
    """What the tensor `name` becomes, from noise of mean 0 and deviation 1."""
    module, _, kind = name.rpartition(".")
    if kind == "layer_scalar":
        return 1 + 0.3 * noise.clamp(-2, 2)
    if kind == "bias":
        return 0.3 * noise
    if noise.ndim == 1:
        return norm(module, noise, options)
    if "embed" in module or module.endswith(("wte", "embed_in")):
        per_layer = (
            0.5
            if "per_layer" in module
            else options.get("embedding", 1.7) / math.sqrt(noise.shape[-1])
        )
        return per_layer * noise
    if module.endswith("wpe"):
        return options.get("position", 0.5) * noise
    fan_in = noise.shape[0] if transposed else math.prod(noise.shape[1:])
    return gain(module, options) / math.sqrt(fan_in) * noise


def norm(module: str, noise: torch.Tensor, options: dict) -> torch.Tensor:
    mean = options.get("norm_mean", 1.0)
    spread = 0.3 * noise.clamp(-2, 2)
    if module.endswith(LAST_NORMS):
        shift = 1.0 - mean
        signs = torch.where(noise.roll(1) < 0, -1.0, 1.0)
        return signs * (options.get("last_norm", mean) + shift + spread) - shift
    if any(part in module for part in ("q_norm", "k_norm", "q_layernorm", "k_layernorm")):
        mean = options.get("head_norm", mean + 0.3)
    return mean + spread


def gain(module: str, options: dict) -> float:
    """How much a matrix enlarges what it multiplies."""
    if module.endswith(("q_proj", "k_proj")):
        return 1.4
    if module.endswith(("qkv_proj", "query_key_value", "c_attn", "v_proj")):
        return options.get("qkv", 1.4)
    if module.endswith(("lm_head", "embed_out")):
        return 1.7
    return 1.2
