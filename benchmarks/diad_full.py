"""DiAD at full size: build it, load a checkpoint of Stable Diffusion 1.5's layout, judge one picture. Needs 16 GB.

Every tensor of the checkpoint is drawn at random, so the picture means nothing: what is shown is that the layout fits,
how much memory it takes and how long a step lasts. The file (4 GB) is made in a temporary folder and goes at the end.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inlier import DiAD
from inlier.methods.diad import Network
from inlier.methods.diad.checkpoints import ENDS, RESNET, load_pretrained, our_name

CLIP = {"width": 768, "tokens": 77, "words": 49408, "layers": 12}


def original_names() -> dict[str, str]:
    """Our name -> the original one, for the U-Net and autoencoder of Stable Diffusion 1.5, found by trying them all."""
    parts = [p for p in RESNET if p != "skip_connection."] + ["skip_connection.", "op.", "conv."]
    block = [
        f"{kind}_blocks.{i}.{j}.{p}" for kind in ("input", "output") for i in range(12) for j in range(3) for p in parts
    ]
    block += [f"middle_block.{j}.{p}" for j in (0, 2) for p in parts] + list(ENDS)
    inner = ["norm.", "proj_in.", "proj_out."]
    deep = "transformer_blocks.0."
    inner += [f"{deep}attn{i}.{p}" for i in (1, 2) for p in ("to_q.", "to_k.", "to_v.", "to_out.0.")]
    inner += [f"{deep}norm{i}." for i in (1, 2, 3)] + [f"{deep}ff.net.0.proj.", f"{deep}ff.net.2."]
    block += [f"{b}{p}" for p in inner for b in (
        "middle_block.1.", *(f"{kind}_blocks.{i}.1." for kind in ("input", "output") for i in range(12)))]  # fmt: skip
    names = [f"model.diffusion_model.{b}" for b in block]
    res = ("norm1.", "norm2.", "conv1.", "conv2.", "nin_shortcut.")
    for side, way in (("encoder", "down"), ("decoder", "up")):
        vae = [f"{way}.{i}.block.{j}.{p}" for i in range(4) for j in range(3) for p in res]
        vae += [f"{way}.{i}.{way}sample.conv." for i in range(4)] + ["conv_in.", "conv_out.", "norm_out."]
        vae += [f"mid.block_{i}.{p}" for i in (1, 2) for p in res] + [
            f"mid.attn_1.{p}." for p in ("norm", "q", "k", "v", "proj_out")
        ]
        names += [f"first_stage_model.{side}.{p}" for p in vae]
    names += ["first_stage_model.quant_conv.", "first_stage_model.post_quant_conv."]
    found = {}
    for name in (n + kind for n in names for kind in ("weight", "bias")):
        found.setdefault(our_name(name, 4), name)
    return found


def checkpoint(network: Network, path: Path) -> int:
    """A file of the layout of v1-5-pruned, without moving averages; returns how many tensors it holds."""
    names, state = original_names(), {}
    for ours, tensor in network.state_dict().items():
        if ours.startswith(("denoiser.unet.", "autoencoder.")):
            fan_in = max(1, tensor[0].numel())
            scale = 0.1 if tensor.ndim == 1 else fan_in**-0.5
            is_norm = tensor.ndim == 1 and ours.endswith("weight")
            state[names[ours]] = scale * torch.randn(tensor.shape) + float(is_norm)
    width, n = CLIP["width"], CLIP["layers"]
    shapes = {"embeddings.token_embedding.weight": (CLIP["words"], width)}
    shapes |= {"embeddings.position_embedding.weight": (CLIP["tokens"], width), "final_layer_norm.weight": (width,)}
    shapes |= {"final_layer_norm.bias": (width,)}
    for layer in (f"encoder.layers.{i}." for i in range(n)):
        sizes = {f"self_attn.{p}_proj": (width, width) for p in ("q", "k", "v", "out")}
        sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        shapes |= {f"{layer}{p}.weight": size for p, size in sizes.items()}
        shapes |= {f"{layer}{p}.bias": size[:1] for p, size in sizes.items()}
        shapes |= {f"{layer}layer_norm{i}.{kind}": (width,) for i in (1, 2) for kind in ("weight", "bias")}
    text = "cond_stage_model.transformer.text_model."
    state |= {text + name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}
    save_file(state, path)
    return len(state)


def memory_of_training(backbone: str, **changes: Any) -> tuple[int, int]:
    """Bytes, as `paper` trains, and one picture at a time with checkpointing. changes: of other settings."""
    usual = DiAD("paper", backbone=backbone, **changes)
    lean = DiAD("paper", backbone=backbone, **(changes | {"batch_size": 1, "checkpointing": True}))
    return usual.memory_needed(usual.settings), lean.memory_needed(lean.settings)


@contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.perf_counter() - start:.1f} s; memory at its peak so far {peak:.1f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet50", help="ResNet-50 has the size of the one that is published")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    settings = DiAD.presets["paper"].replace(backbone=arguments.backbone)
    with timed("built"):
        network = Network(settings).eval()
    for name in ("autoencoder", "denoiser.unet", "denoiser.guide"):
        count = sum(p.numel() for p in network.get_submodule(name).parameters())
        print(f"  {name}: {count / 1e6:.1f} million parameters")
    needed, lean = memory_of_training(arguments.backbone)
    print(f"  training would take about {needed / 2**30:.0f} GiB at batch 12, {lean / 2**30:.0f} GiB at batch 1 with "
          "checkpointing")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stable-diffusion.safetensors"
        with timed("checkpoint made"):
            print(f"  {checkpoint(network, path)} tensors, {path.stat().st_size / 2**30:.1f} GiB")
        with timed("checkpoint loaded"):
            load_pretrained(network.denoiser, network.autoencoder, path, 4)
    network.to(arguments.device)
    image = torch.rand(1, 3, settings.size, settings.size, device=arguments.device)
    with torch.inference_mode():
        latent = torch.randn(1, *network.latent_shape, device=arguments.device)
        embeddings = network.denoiser.time_embeddings(torch.tensor([901], device=arguments.device))
        hint = network.denoiser.hint(network.normalise(image))
        network.denoiser.step(latent, embeddings, hint)
        with timed("one step, warm"):
            network.denoiser.step(latent, embeddings, hint)
        with timed("a picture from end to end, 10 steps"):
            scores, maps = network(image)
    assert torch.isfinite(scores).all() and maps.shape == (1, settings.size, settings.size)
    print(f"threads: {torch.get_num_threads()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
