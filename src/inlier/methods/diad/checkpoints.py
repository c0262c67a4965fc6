"""Weights that others trained: Stable Diffusion 1.5, fine-tuned autoencoders, and a user's own DiAD checkpoints.

Two layouts of names exist: the original one (`model.diffusion_model.input_blocks.1.0.in_layers.0.weight`), in a single
file, and diffusers' (a folder with unet/, vae/ and text_encoder/). Both are read into the names of `Network`. Nothing
in a file is run: pickled ones are opened with torch's `weights_only` and, where they hold foreign objects beside the
tensors (the published Stable Diffusion files do), by an unpickler that puts an empty stand-in in their place.
"""

import json
import pickle
import re
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier.artifact import read_text
from inlier.errors import InlierError

State = dict[str, Tensor]
RESNET = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}
ENDS = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "input_blocks.0.0.": "conv_in.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
    "middle_block_out.0.": "controlnet_mid_block.",
    "input_hint_block.0.": "controlnet_cond_embedding.conv_in.",
    "input_hint_block.14.": "controlnet_cond_embedding.conv_out.",
}
ATTENTION = {
    "norm.": "group_norm.",
    "q.": "to_q.",
    "k.": "to_k.",
    "v.": "to_v.",
    "proj_out.": "to_out.0.",
    # diffusers' own names of 2022, still in published folders
    "query.": "to_q.",
    "key.": "to_k.",
    "value.": "to_v.",
    "proj_attn.": "to_out.0.",
}
TEXT = "text."


# -- names ------------------------------------------------------------------------------------------------------------


def unet_name(key: str) -> str:
    """Diffusers' name for an original one of U-Net or ControlNet, without prefix."""
    for old, new in ENDS.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    if m := re.fullmatch(r"input_hint_block\.(\d+)\.(\w+)", key):  # even numbers, a SiLU between
        return f"controlnet_cond_embedding.blocks.{int(m[1]) // 2 - 1}.{m[2]}"
    if m := re.fullmatch(r"zero_convs\.(\d+)\.0\.(\w+)", key):
        return f"controlnet_down_blocks.{m[1]}.{m[2]}"
    if m := re.fullmatch(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)", key):
        number, part, rest = int(m[2]), int(m[3]), m[4]
        is_down = m[1] == "input_blocks"
        level, i = divmod(number - 1 if is_down else number, 3)
        block = f"{'down' if is_down else 'up'}_blocks.{level}."
        if rest.startswith("op."):
            return f"{block}downsamplers.0.conv.{rest.removeprefix('op.')}"
        if rest.startswith("conv."):
            return f"{block}upsamplers.0.{rest}"
        return f"{block}resnets.{i}.{_swap(rest, RESNET)}" if part == 0 else f"{block}attentions.{i}.{rest}"
    if m := re.fullmatch(r"middle_block\.(\d)\.(.+)", key):
        return (
            f"mid_block.attentions.0.{m[2]}"
            if m[1] == "1"
            else (f"mid_block.resnets.{int(m[1]) // 2}.{_swap(m[2], RESNET)}")
        )
    return key


def autoencoder_name(key: str, levels: int) -> str:
    """Diffusers' name for an original one of the autoencoder, without prefix; diffusers' own ones stay."""
    key = re.sub(r"\bmid\.block_(\d)\.", lambda m: f"mid_block.resnets.{int(m[1]) - 1}.", key)
    key = key.replace("mid.attn_1.", "mid_block.attentions.0.").replace("nin_shortcut.", "conv_shortcut.")
    key = re.sub(r"encoder\.down\.(\d)\.block\.", r"encoder.down_blocks.\1.resnets.", key)
    key = re.sub(r"encoder\.down\.(\d)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", key)
    up = lambda m, part: f"decoder.up_blocks.{levels - 1 - int(m[1])}.{part}."  # noqa: E731 (counted from the picture)
    key = re.sub(r"decoder\.up\.(\d)\.block\.", lambda m: up(m, "resnets"), key)
    key = re.sub(r"decoder\.up\.(\d)\.upsample\.", lambda m: up(m, "upsamplers.0"), key)
    head, attention, rest = key.partition("mid_block.attentions.0.")
    return (head + attention + _swap(rest, ATTENTION)) if attention else re.sub(r"\.norm_out\.", ".conv_norm_out.", key)


def our_name(key: str, levels: int) -> str | None:
    """The name in `Network` of a tensor of an original single file; None for what we have no use for.

    levels: of the autoencoder. `text.*` is the text encoder, that `empty_prompt` reads.
    """
    if m := re.fullmatch(r"control_model\.down(\d)(\d)\.0\.weight", key):  # source, target
        return f"denoiser.guide.fusion.convs.{int(m[2]) - 1}.{int(m[1]) - 1}.weight"
    for prefix, ours in (("model.diffusion_model.", "denoiser.unet."), ("control_model.", "denoiser.guide.body.")):
        if key.startswith(prefix):
            return ours + unet_name(key.removeprefix(prefix))
    if key.startswith("first_stage_model."):
        name = key.removeprefix("first_stage_model.")
        return None if name.startswith("loss.") else "autoencoder.net." + autoencoder_name(name, levels)
    text = "cond_stage_model.transformer."
    if key.startswith(text):
        return TEXT + key.removeprefix(text).removeprefix("text_model.")
    return None


def _swap(text: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        if text.startswith(old):
            return new + text.removeprefix(old)
    return text


# -- files ------------------------------------------------------------------------------------------------------------


class _StandIn:
    """In place of every object of a pickle that is no tensor."""

    def __init__(self, *arguments: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


class _Unpickler(pickle.Unpickler):
    """Makes tensors, plain containers and stand-ins; calls nothing that the file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return getattr(torch._utils, name)
        return _StandIn


def read_file(path: Path) -> State:
    """The tensors of one file, `state_dict` unpacked. Raises InlierError."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise InlierError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        options: Any = {"map_location": "cpu", "mmap": zipfile.is_zipfile(path)}
        try:
            content = torch.load(path, weights_only=True, **options)
        except pickle.UnpicklingError:
            restricted: Any = types.SimpleNamespace(
                Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load(), __name__="none"
            )
            content = torch.load(path, weights_only=False, pickle_module=restricted, **options)
    except Exception as error:  # a dozen types for a damaged or foreign file
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InlierError(f"{path}: not a readable weight file ({type(error).__name__}: {reason})") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise InlierError(f"{path}: holds no table of tensors")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _read_part(folder: Path) -> State:
    """One part of a diffusers folder."""
    names = (
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
        "diffusion_pytorch_model.bin",
        "pytorch_model.bin",
    )
    for name in names:
        if (folder / name).is_file():
            return read_file(folder / name)
    raise InlierError(f"{folder}: holds none of {', '.join(names)}")


def read_pretrained(path: Path, levels: int) -> State:
    """Stable Diffusion or DiAD, folder or file, under the names of `Network` (and `text.*`). Raises InlierError."""
    if path.is_dir():
        state = {f"denoiser.unet.{key}": value for key, value in _read_part(path / "unet").items()}
        vae = _read_part(path / "vae").items()
        state |= {f"autoencoder.net.{autoencoder_name(key, levels)}": value for key, value in vae}
        text = _read_part(path / "text_encoder").items()
        return state | {TEXT + key.removeprefix("text_model."): value for key, value in text}
    found = read_file(path)
    if not any(key.startswith("model.diffusion_model.") for key in found):
        expected = ["model.diffusion_model.time_embed.0.weight", "first_stage_model.encoder.conv_in.weight"]
        raise InlierError(_layout(path, "Stable Diffusion 1.5 or DiAD", expected, found))
    named = ((our_name(key, levels), value) for key, value in found.items())
    return {name: value for name, value in named if name}


def read_autoencoder(path: Path) -> tuple[State, dict[str, Any]]:
    """(tensors under diffusers' names, the settings that fit them) of an autoencoder, KL or tiny, in either layout."""
    found = _read_part(path) if path.is_dir() else read_file(path)
    prefix = "first_stage_model."
    if any(key.startswith(prefix) for key in found):  # of a whole model: its first stage
        found = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    found = {key: value for key, value in found.items() if not key.startswith("loss.")}
    if any(key.startswith("encoder.layers.") for key in found):
        return found, _describe_tiny(found)
    levels = 1 + max((int(m[1]) for m in _matches(r"encoder\.down(?:_blocks)?\.(\d)\..*", found)), default=-1)
    if not levels:
        expected = ["encoder.down_blocks.0.resnets.0.conv1.weight", "encoder.down.0.block.0.conv1.weight"]
        raise InlierError(_layout(path, "an autoencoder", [*expected, "encoder.layers.0.weight"], found))
    state = {autoencoder_name(key, levels): value for key, value in found.items()}
    needed = [f"encoder.down_blocks.{i}.resnets.0.conv1.weight" for i in range(levels)]
    if lacking := [name for name in (*needed, "decoder.conv_in.weight") if name not in state]:
        raise InlierError(_layout(path, "a whole autoencoder", lacking, state))
    blocks = {int(m[1]) for m in _matches(r"encoder\.down_blocks\.0\.resnets\.(\d)\..*", state)}
    config = path / "config.json"
    groups = {}  # nothing in the tensors tells the groups
    if config.is_file():
        text = read_text(config)
        try:
            groups = {"autoencoder_groups": json.loads(text)["norm_num_groups"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InlierError(f"{config}: gives no norm_num_groups ({type(error).__name__}: {error})") from error
    return state, {
        "autoencoder_kind": "kl",
        "autoencoder_channels": tuple(state[name].shape[0] for name in needed),
        "autoencoder_layers": len(blocks),
        **groups,
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
    }


def _describe_tiny(state: State) -> dict[str, Any]:
    plain = [int(m[1]) for m in _matches(r"encoder\.layers\.(\d+)\.weight", state)]
    strided = [i for i in plain if f"encoder.layers.{i}.bias" not in state]
    blocks = {int(m[1]) for m in _matches(r"encoder\.layers\.(\d+)\.conv\..*", state)}
    width = state["encoder.layers.0.weight"].shape[0]
    return {
        "autoencoder_kind": "tiny",
        "autoencoder_channels": (width,) * (len(strided) + 1),
        "autoencoder_layers": (len(blocks) - 1) // max(1, len(strided)),
        "latent_channels": state[f"encoder.layers.{max(plain)}.weight"].shape[0],
    }


def _matches(pattern: str, keys: Iterable[str]) -> list[re.Match[str]]:
    return [m for m in (re.fullmatch(pattern, key) for key in keys) if m]


def _layout(path: Path, what: str, expected: Iterable[str], found: Iterable[str]) -> str:
    names = ", ".join(sorted(found)[:3])
    return f"{path}: not {what}: expected tensors like {', '.join(list(expected)[:3])}; found {names or 'none'}, ..."


# -- into the network -------------------------------------------------------------------------------------------------


def fill(module: nn.Module, state: State, path: Path, may_lack: Callable[[str], bool] = lambda key: False) -> list[str]:
    """Copy the tensors of `state` into a module; returns the names that it lacks and may lack. Raises InlierError."""
    lacking, taken = [], {}
    for key, tensor in module.state_dict().items():
        if key not in state:
            lacking.append(key)
            continue
        value = state[key]
        while value.ndim > tensor.ndim and value.shape[-1] == 1:  # a 1x1 convolution for a linear layer
            value = value[..., 0]
        if value.shape != tensor.shape:
            raise InlierError(
                f"{path}: '{key}' has the shape {tuple(value.shape)}, these settings need {tuple(tensor.shape)}"
            )
        taken[key] = value.to(tensor.dtype)
    needed = [key for key in lacking if not may_lack(key)]
    if needed:
        raise InlierError(_layout(path, f"all that is needed, {len(needed)} tensors are missing", needed, state))
    module.load_state_dict(taken, strict=False)
    return lacking


def load_pretrained(denoiser: nn.Module, autoencoder: nn.Module | None, path: Path, levels: int) -> bool:
    """Fill denoiser and autoencoder from Stable Diffusion, as the authors' script does, or from a DiAD checkpoint.

    The guide starts as a copy of the U-Net's encoder; hint encoder, zero convolutions and fusion keep their fresh
    weights where the file lacks them. Returns whether the file is a whole DiAD.
    """
    state = read_pretrained(path, levels)
    body, unet, guide = "denoiser.guide.body.", "denoiser.unet.", "denoiser.guide."
    is_whole = any(key.startswith(guide) for key in state)
    if not is_whole:
        state |= {body + key.removeprefix(unet): value for key, value in state.items() if key.startswith(unet)}
    text = {key.removeprefix(TEXT): value for key, value in state.items() if key.startswith(TEXT)}
    part = {key.removeprefix("denoiser."): value for key, value in state.items() if key.startswith("denoiser.")}
    if "embeddings.token_embedding.weight" not in text:
        raise InlierError(
            f"{path}: holds no text encoder (cond_stage_model.transformer.*, or the folder text_encoder), which makes "
            "the constant that stands for the prompt; use the whole model file, such as v1-5-pruned.ckpt"
        )
    try:
        part["context"] = empty_prompt(text)
    except KeyError as error:
        raise InlierError(f"{path}: the text encoder is not whole, it lacks {error}") from error
    new = ("controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_mid_block.", "fusion.")
    fill(denoiser, part, path, lambda key: not is_whole and key.startswith("guide.") and any(n in key for n in new))
    if autoencoder is not None:
        prefix = "autoencoder."
        fill(
            autoencoder,
            {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)},
            path,
        )
    return is_whole


def empty_prompt(text: Mapping[str, Tensor]) -> Tensor:
    """(1, tokens, width): what CLIP's text model says to an empty prompt: a start token, then end tokens.

    A causal pre-norm transformer with heads of 64 and the quick GELU, x * sigmoid(1.702 x).
    """

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, text[f"{name}.weight"].float(), text[f"{name}.bias"].float())

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], text[f"{name}.weight"].float(), text[f"{name}.bias"].float())

    positions = text["embeddings.position_embedding.weight"].float()
    words = text["embeddings.token_embedding.weight"].float()
    x = torch.cat([words[-2:-1], words[-1:].expand(len(positions) - 1, -1)]) + positions
    for i in range(1 + max(int(m[1]) for m in _matches(r"encoder\.layers\.(\d+)\..*", text))):
        layer = f"encoder.layers.{i}"
        h = norm(f"{layer}.layer_norm1", x)
        q, k, v = (
            linear(f"{layer}.self_attn.{name}_proj", h).unflatten(-1, (-1, 64)).transpose(0, 1) for name in "qkv"
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1)
        x = x + linear(f"{layer}.self_attn.out_proj", h)
        h = linear(f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", x))
        x = x + linear(f"{layer}.mlp.fc2", h * torch.sigmoid(1.702 * h))
    return norm("final_layer_norm", x)[None]
