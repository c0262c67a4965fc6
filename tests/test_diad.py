"""DiAD equals the numbers of the authors' code at reduced width: guide, fusion, noise, DDIM, autoencoder, loss, map."""

import collections
import functools
import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import inlier
from conftest import FROM_NOTHING
from golden import FOLDER, built, close, fill, load
from inlier import DiAD, InlierError, cli, training
from inlier.maps import smooth_upsample_matrix
from inlier.methods import diad
from inlier.methods.diad import BUNDLED, Network, Settings, autoencoder
from inlier.methods.diad.autoencoder import Autoencoder, Discriminator, Pixels
from inlier.methods.diad.checkpoints import empty_prompt, load_pretrained, our_name, read_autoencoder, read_file
from inlier.methods.diad.checkpoints import fill as fill_network
from inlier.methods.diad.compare import Residuals, anomaly_map, distances, image_score
from inlier.methods.diad.inversion import invert
from inlier.methods.diad.memory import memory_of_training
from inlier.methods.diad.network import make_autoencoder, make_denoiser
from inlier.methods.diad.sampler import add_noise, ddim, ddim_timesteps, noise_of, schedule
from inlier.report import write_report

CASE, GOLDEN = load("diad")
with safe_open(FOLDER / "diad.safetensors", "np") as file:
    TO_DIFFUSERS = json.loads(file.metadata()["names"])  # of every tensor of the released networks
REFERENCE = {
    **{our_name(name, 4): name for name in TO_DIFFUSERS},
    **{our_name(f"control_model.down{a}{j}.0.weight", 4): f"control_model.down{a}{j}.0.weight"
       for a in (1, 2, 3) for j in (1, 2, 3)},
}  # fmt: skip
REDUCED = Settings(
    channels=(32, 64, 128, 128),
    heads=4,
    context_width=32,
    autoencoder_channels=(32, 64, 128, 128),
    backbone="efficientnet_lite0",
)
ABAR = schedule(1000, 0.00085, 0.012)


@pytest.fixture(scope="module")
def network():
    net = Network(REDUCED)
    state = {}
    for name, tensor in net.state_dict().items():
        if name in REFERENCE:
            shape = tuple(tensor.shape)
            if "autoencoder.net" in name and "attentions.0.to_" in name and len(shape) == 2:
                shape += (1, 1)  # the reference's linear layers there are 1x1 convolutions
            state[name] = fill(REFERENCE[name], shape).view(tensor.shape)
    left = set(net.state_dict()) - set(state)
    assert all(name.startswith("backbone.") or name in ("denoiser.context", "latent_scale") for name in left)
    net.load_state_dict(state, strict=False)
    net.denoiser.context.data = GOLDEN["in.context"]
    net.denoiser.freeze()
    return net.eval()


def test_every_name_of_the_released_networks_has_its_place():
    ours = {"unet.": "denoiser.unet.", "controlnet.": "denoiser.guide.body.", "vae.": "autoencoder.net."}
    for name, expected in TO_DIFFUSERS.items():
        prefix = next(p for p in ours if expected.startswith(p))
        assert our_name(name, 4) == ours[prefix] + expected.removeprefix(prefix), name
    assert our_name("control_model.down21.0.weight", 4) == "denoiser.guide.fusion.convs.0.1.weight"
    assert our_name("first_stage_model.loss.logvar", 4) is None and our_name("betas", 4) is None


def test_guide_before_and_after_fusion(network):
    guide, t = network.denoiser.guide, GOLDEN["in.t"]
    with torch.no_grad():
        close(guide.body.time_proj(t), GOLDEN["out.sg.timestep_sinusoid"], 5e-6)
        time = network.denoiser.time_embeddings(t)[1]
        close(time, GOLDEN["out.sg.time_embedding"], 5e-6)
        hint = guide.hint(GOLDEN["in.hint"])
        close(hint, GOLDEN["out.sg.hint_embedding"], 1e-6)
        middle, outs = guide(GOLDEN["in.x"], time, hint, GOLDEN["in.context"])
        seen = {}
        handle = guide.fusion.register_forward_pre_hook(lambda _, args: seen.update(sources=args[0], targets=args[1]))
        guide(GOLDEN["in.x"], time, hint, GOLDEN["in.context"])
        handle.remove()
    for i in (6, 7, 8):
        close(seen["sources"][i - 6], GOLDEN[f"out.sg.out{i}"], 1e-4 if i == 6 else 2e-4)
    for i in (9, 10, 11):
        close(seen["targets"][i - 9], GOLDEN[f"out.sg.before_sff.out{i}"], 2e-4)
        close(outs[i - 9], GOLDEN[f"out.sg.out{i}"], 2e-4)
    close(middle, GOLDEN["out.sg.out12"], 2e-4)


def test_predicted_noise(network):
    with torch.no_grad():
        eps = network.denoiser(GOLDEN["in.x"], GOLDEN["in.t"], GOLDEN["in.hint"])
    close(eps, GOLDEN["out.unet.eps"], 5e-5)


def test_noise_schedule_and_noising():
    close(ABAR[GOLDEN["in.schedule.t"]], GOLDEN["out.schedule.alphas_cumprod"], 5e-6)
    for t in (500, 999):
        noisy = add_noise(GOLDEN["in.z0"], GOLDEN["in.noise"], ABAR[t].expand(1))
        close(noisy, GOLDEN[f"out.q_sample.t{t}"], 2e-5)


def test_ten_ddim_steps(network):
    timesteps = ddim_timesteps(999, 10, "leading")
    assert timesteps == GOLDEN["out.ddim.timesteps"].tolist()
    close(ABAR[timesteps], GOLDEN["out.ddim.alpha"], 5e-6)
    close(ABAR[[*timesteps[1:], 0]], GOLDEN["out.ddim.alpha_prev"], 5e-6)
    seen = []

    def predict(x, i):
        seen.append(x[0])
        return network.denoiser(x, torch.tensor([timesteps[i]]), GOLDEN["in.hint"])

    with torch.no_grad():
        last = ddim(GOLDEN["in.x"], predict, timesteps, ABAR)
    close(torch.stack([*seen[1:], last[0]]), GOLDEN["out.ddim.steps"], 3e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [10, 7, 5, 2, 300])
def test_ddim_is_that_of_diffusers(spacing, steps):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(**CASE["configs"]["DDIMScheduler"], timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    timesteps = ddim_timesteps(999, steps, spacing)
    assert timesteps == theirs.timesteps.tolist()
    if 1000 % steps:  # theirs takes even strides between uneven timesteps
        return
    x = expected = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in theirs.timesteps:
        expected = theirs.step(torch.tanh(expected), t, expected).prev_sample
    close(ddim(x, lambda x, i: torch.tanh(x), timesteps, ABAR), expected, 1e-4)


def test_training_loss_gradient_and_what_learns(network):
    noisy = add_noise(GOLDEN["in.train.z"], GOLDEN["in.train.noise"], ABAR[GOLDEN["in.train.t"]])
    predicted = network.denoiser(noisy, GOLDEN["in.train.t"], GOLDEN["in.train.hint"])
    loss = (predicted - GOLDEN["in.train.noise"]).square().mean()
    loss.backward()
    close(loss[None].detach(), GOLDEN["out.train.loss"], 5e-6)
    parameters = {REFERENCE.get(f"denoiser.{name}"): p for name, p in network.denoiser.named_parameters()}
    tolerance = {
        "control_model.input_blocks": 1e-6,
        "control_model.input_hint_block": 2e-8,
        "control_model.middle_block_out": 1e-8,
        "control_model.time_embed": 2e-7,
        "control_model.zero_convs.7": 5e-7,
        "control_model.zero_convs.11": 5e-9,
        "model.diffusion_model.out.2": 2e-6,
        "model.diffusion_model.output_blocks.0": 1e-8,
        "model.diffusion_model.output_blocks.5": 5e-8,
    }
    compared = [name for name in GOLDEN if name.startswith("out.train.grad.")]
    assert len(compared) == len(tolerance)
    for name in compared:
        key = name.removeprefix("out.train.grad.")
        close(parameters[key].grad, GOLDEN[name], next(v for part, v in tolerance.items() if key.startswith(part)))
    fused = parameters["control_model.down21.0.weight"].grad.norm()[None]
    close(fused, GOLDEN["out.train.grad_norm.control_model.down21.0.weight"], 5e-7)
    # what the released code leaves as it is: frozen here, or not held at all
    still = {name for name in TO_DIFFUSERS if not name.startswith("first_stage") and name.startswith(tuple(
        f"{module}." for module in CASE["no_gradient"]))}  # fmt: skip
    learning = {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learning.isdisjoint(still)
    assert {name for name in TO_DIFFUSERS if not name.startswith("first_stage")} - still <= learning
    network.denoiser.zero_grad()


def test_autoencoder(network):
    with torch.no_grad():
        mean, std = network.autoencoder.moments(GOLDEN["in.ae.image"])
        close(torch.cat([mean, GOLDEN["out.ae.moments"][:, 4:]], 1), GOLDEN["out.ae.moments"], 2e-5)
        close(std, GOLDEN["out.ae.std"], 2e-5)
        close(network.latent((mean, std), GOLDEN["in.ae.noise"]), GOLDEN["out.ae.scaled_sample"], 5e-6)
        decoded = network.autoencoder.decode(GOLDEN["in.ae.z"] / network.latent_scale)
    close(decoded, GOLDEN["out.ae.decoded"], 1e-4)


def test_map_and_score():
    apart = distances(*([GOLDEN[f"in.map.{side}{i}"] for i in range(3)] for side in "ab"))
    for i, d in enumerate(apart):
        m = smooth_upsample_matrix(d.shape[-1], 128, 0, align_corners=True)
        close((m @ d @ m.T)[0, ::4, ::4], GOLDEN[f"out.map.layer{i}"], 1e-6 if i == 2 else 2e-6)
    for sigma, name, tolerance in ((0, "sum", 5e-6), (5, "smooth", 2e-6)):
        matrices = [smooth_upsample_matrix(d.shape[-1], 128, sigma, align_corners=True) for d in apart]
        maps = anomaly_map(apart, matrices)
        close(maps[0], GOLDEN[f"out.map.{name}"], tolerance)
    close(image_score(maps, 8, 8), GOLDEN["out.map.score"], 2e-6)


def test_noise_belongs_to_the_picture():
    images = torch.randint(256, (3, 3, 32, 32)) / 255
    together = noise_of(images, (4, 8, 8))
    assert torch.equal(noise_of(images[1:2] + 1e-4, (4, 8, 8))[0], together[1])  # the same in 8 bit
    assert not torch.equal(together[0], together[1])


# -- weights of others ------------------------------------------------------------------------------------------------

SMALL = {
    "size": 64,
    "channels": (16, 32, 32),
    "attention": (0, 1),
    "heads": 2,
    "groups": 4,
    "context_tokens": 6,
    "context_width": 64,
    "hint_channels": (4, 8, 8),
    "autoencoder_channels": (8, 8, 16),
    "autoencoder_layers": 1,
    "autoencoder_groups": 4,
    "ddim_steps": 2,
}
TEXT = {
    "embeddings.token_embedding.weight": (9, 64),
    "embeddings.position_embedding.weight": (6, 64),
    "final_layer_norm.weight": (64,),
    "final_layer_norm.bias": (64,),
} | {
    f"encoder.layers.{i}.{name}.{kind}": ((out, width) if kind == "weight" else (out,)) if "norm" not in name else (64,)
    for i in range(2)
    for name, out, width in (
        *((f"self_attn.{p}_proj", 64, 64) for p in ("q", "k", "v", "out")),
        ("mlp.fc1", 256, 64),
        ("mlp.fc2", 64, 256),
        ("layer_norm1", 64, 0),
        ("layer_norm2", 64, 0),
    )
    for kind in ("weight", "bias")
}


def original_names(levels):
    """Every name of a model of three levels in the original layout, from the golden ones of four."""
    names = {}
    for name in [*TO_DIFFUSERS, *(f"control_model.down{a}{j}.0.weight" for a in (1, 2, 3) for j in (1, 2, 3))]:
        ours = our_name(name, levels)
        names.setdefault(ours, name)
    return names


ORIGINAL = original_names(3)


def small_network(**settings):
    return Network(Settings(**{**SMALL, **settings}))


def stable_diffusion(network, folder, kind):
    """A rule-filled checkpoint of the original layout; kind: "sd" or "diad"."""
    state = {}
    for name, tensor in network.state_dict().items():
        original = ORIGINAL.get(name)
        if original is None or (kind == "sd" and original.startswith("control_model.")):
            continue
        shape = tuple(tensor.shape)
        if "mid_block.attentions.0.to_" in name and name.startswith("autoencoder") and len(shape) == 2:
            shape += (1, 1)
        state[original] = fill(original, shape)
    text = "cond_stage_model.transformer.text_model."
    state |= {text + name: fill(name, shape) for name, shape in TEXT.items()}
    state |= {"model_ema.decay": torch.ones(()), "first_stage_model.loss.logvar": torch.zeros(1)}
    path = folder / f"{kind}.ckpt"
    torch.save({"state_dict": state, "global_step": 3}, path)
    return path, state


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_stable_diffusion_fills_the_network_as_the_authors_script_does(tmp_path, suffix):
    network = small_network()
    path, state = stable_diffusion(network, tmp_path, "sd")
    if suffix == ".safetensors":
        save_file(state, path := path.with_suffix(suffix))
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert not load_pretrained(network.denoiser, network.autoencoder, path, 3)
    filled = network.state_dict()
    new = ("cond_embedding", "controlnet_down_blocks", "controlnet_mid_block", "fusion", "backbone")
    for name, tensor in filled.items():
        if any(part in name for part in new):  # what Stable Diffusion lacks keeps its start
            assert torch.equal(tensor, fresh[name]), name
        elif name.startswith("denoiser.guide"):  # the rest of the guide is a copy of the U-Net's encoder
            assert torch.equal(tensor, filled[name.replace("guide.body", "unet")]), name
        elif name in ORIGINAL:
            assert torch.equal(tensor, state[ORIGINAL[name]].view(tensor.shape)), name
    assert filled["denoiser.context"].shape == (1, 6, 64) and filled["denoiser.context"].abs().sum() > 0


def test_a_diad_checkpoint_comes_back_whole(tmp_path):
    network = small_network()
    path, state = stable_diffusion(network, tmp_path, "diad")
    assert load_pretrained(network.denoiser, network.autoencoder, path, 3)
    for name, tensor in network.state_dict().items():
        if name in ORIGINAL:
            assert torch.equal(tensor, state[ORIGINAL[name]].view(tensor.shape)), name
    assert network.denoiser.guide.fusion.convs[0][1].weight.abs().sum() > 0


def test_a_folder_of_diffusers_fills_the_same(tmp_path):
    network, other = small_network(), small_network()
    path, state = stable_diffusion(network, tmp_path, "sd")
    load_pretrained(network.denoiser, network.autoencoder, path, 3)
    folder = tmp_path / "sd"
    network.denoiser.unet.to(memory_format=torch.contiguous_format).save_pretrained(folder / "unet")
    network.autoencoder.net.to(memory_format=torch.contiguous_format).save_pretrained(folder / "vae")
    (folder / "text_encoder").mkdir()
    text = {k.removeprefix("cond_stage_model.transformer."): v for k, v in state.items() if "text_model" in k}
    save_file(text, folder / "text_encoder/model.safetensors")
    load_pretrained(other.denoiser, other.autoencoder, folder, 3)
    a, b = network.state_dict(), other.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in ORIGINAL if name in a and "guide" not in name)
    assert torch.equal(a["denoiser.context"], b["denoiser.context"])


class Callback:
    """A foreign object, as published checkpoints hold them."""

    made = 0

    def __init__(self):
        Callback.made += 1

    def __setstate__(self, state):
        Callback.made += 1

    def __getstate__(self):
        return {"x": 1}


class Table(dict):
    pass


class Row(list):
    pass


@pytest.mark.parametrize("is_new", [True, False])  # the zip format, or the one before
def test_foreign_objects_in_a_checkpoint_are_not_made(tmp_path, is_new):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    tensors = {"model.a": torch.arange(4.0)}
    containers = [Table(a=1), collections.defaultdict(int, a=1), collections.deque([1, 2]), Row([1])]
    content = {"state_dict": tensors, "callbacks": {Callback: Callback()}, "evil": Evil(), "containers": containers}
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=is_new)
    Callback.made = 0
    assert torch.equal(read_file(tmp_path / "x.ckpt")["model.a"], tensors["model.a"])
    assert Callback.made == 0 and not (tmp_path / "written").exists()


@pytest.mark.parametrize("kind", ["kl", "ldm", "first_stage", "folder", "tiny"])
def test_an_autoencoder_in_every_layout_tells_its_own_size(tmp_path, kind):
    from diffusers import AutoencoderTiny

    made = small_network(latent_channels=3)
    net, path = made.autoencoder.net, tmp_path / "ae.safetensors"
    expected = {"autoencoder_kind": "kl", "autoencoder_channels": (8, 8, 16), "autoencoder_layers": 1}
    if kind == "folder":
        net.to(memory_format=torch.contiguous_format).save_pretrained(path := tmp_path / "ae")
        expected["autoencoder_groups"] = 4
    elif kind == "tiny":
        net = AutoencoderTiny(
            encoder_block_out_channels=(8,) * 3,
            decoder_block_out_channels=(8,) * 3,
            num_encoder_blocks=(1, 2, 2),
            num_decoder_blocks=(2, 2, 1),
            latent_channels=3,
        )
        expected = {"autoencoder_kind": "tiny", "autoencoder_channels": (8,) * 3, "autoencoder_layers": 2}
        save_file(net.state_dict(), path)
    elif kind == "kl":
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    else:
        prefix = "first_stage_model." if kind == "first_stage" else ""
        state = {}
        for name, tensor in net.state_dict().items():
            original = ORIGINAL[f"autoencoder.net.{name}"].removeprefix("first_stage_model.")
            state[prefix + original] = tensor.contiguous()
        save_file(state | {prefix + "loss.logvar": torch.zeros(1)}, path)
    state, described = read_autoencoder(path)
    assert expected.items() <= described.items() and described["latent_channels"] == 3
    other = Network(Settings(**SMALL).replace(**described))  # but for a folder, the groups are those of the settings
    assert other.s.autoencoder_groups == 4
    fill_network(other.autoencoder.net, state, path)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.autoencoder.net.state_dict().items())


def test_the_empty_prompt_is_what_clip_says():
    # made with CLIPTextModel of transformers 5.23.0, its default activation quick_gelu, these weights
    text = {name: fill(name, shape) for name, shape in TEXT.items()}
    context = empty_prompt(text)
    assert context.shape == (1, 6, 64)
    close(
        context[0, [0, 5], :3], torch.tensor([[2.148173, 0.468589, -0.094471], [-1.021827, 1.153006, -0.787203]]), 1e-5
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weight": torch.zeros(2)}, "expected tensors like model.diffusion_model.time_embed.0.weight"),
        ({"model.diffusion_model.out.2.bias": torch.zeros(4)}, "holds no text encoder"),
        (
            {
                "model.diffusion_model.out.2.bias": torch.zeros(4),
                "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(9, 64),
            },
            "the text encoder is not whole, it lacks 'embeddings.position_embedding.weight'",
        ),
    ],
)
def test_a_checkpoint_of_another_layout_names_what_was_expected_and_found(tmp_path, content, words):
    save_file(content, path := tmp_path / "x.safetensors")
    network = small_network()
    with pytest.raises(InlierError, match=words) as error:
        load_pretrained(network.denoiser, network.autoencoder, path, 3)
    assert "x.safetensors" in str(error.value)
    assert "text encoder" in words or "found weight" in str(error.value)


def test_a_checkpoint_of_another_size_names_the_tensor(tmp_path):
    path, _ = stable_diffusion(small_network(), tmp_path, "sd")
    wide = small_network(channels=(32, 32, 32))
    with pytest.raises(InlierError, match="has the shape .*, these settings need"):
        load_pretrained(wide.denoiser, wide.autoencoder, path, 3)
    (tmp_path / "bad.ckpt").write_bytes(path.read_bytes()[:999])
    with pytest.raises(InlierError, match="not a readable weight file"):
        read_file(tmp_path / "bad.ckpt")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InlierError, match="not an autoencoder: expected tensors like encoder.down_blocks"):
        read_autoencoder(tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(InlierError, match="notes.txt: not a readable weight file"):
        read_file(tmp_path / "notes.txt")


def test_half_an_autoencoder_and_a_folder_that_does_not_describe_it(tmp_path):
    state = Autoencoder("kl", (8, 16), 1, 4, 4).net.state_dict()
    save_file({name: t for name, t in state.items() if name.startswith("encoder")}, tmp_path / "half.safetensors")
    with pytest.raises(InlierError, match=r"not a whole autoencoder: expected tensors like decoder.conv_in.weight"):
        read_autoencoder(tmp_path / "half.safetensors")
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    for content in ("{}", '{"norm_num'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InlierError, match=r"config.json: gives no norm_num_groups"):
            read_autoencoder(tmp_path)


def test_files_of_old_torch_are_read(tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.float16)}
    torch.save({"state_dict": tensors}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
    assert same(tensors, read_file(tmp_path / "x.ckpt"))


# -- the detector -----------------------------------------------------------------------------------------------------

TINY = FROM_NOTHING | {
    "backbone": "tiny",
    "size": 64,
    "taps": (4,),
    "autoencoder_kind": "kl",
    "autoencoder_channels": (4, 8, 8, 8),
    "autoencoder_groups": 4,
    "autoencoder_steps": 3,
    "channels": (16, 16, 16),
    "groups": 4,
    "heads": 2,
    "context_width": 8,
    "hint_channels": (4, 8, 8, 8),
    "steps": 3,
    "batch_size": 2,
    "ddim_steps": 1,
    "patch": 8,
}


def tiny(**settings):
    return DiAD("light", **{**TINY, **settings})


def test_a_tiny_autoencoder_has_no_groups_that_must_divide_its_width():
    network = built(tiny(autoencoder_kind="tiny", autoencoder_channels=(6,) * 4, autoencoder_groups=4))
    image = torch.rand(1, 3, 64, 64)
    assert network.autoencoder.moments(image)[0].shape == (1, *network.latent_shape) == (1, 4, 8, 8)


def memory(detector):
    return memory_of_training(detector.settings)


def weights_of(detector):
    return detector.network_.state_dict()


def same(a, b):
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize("steps", [10, 5, 2])
def test_inversion_is_that_of_diffusers(steps):
    from diffusers import DDIMInverseScheduler

    config = CASE["configs"]["DDIMScheduler"] | {"set_alpha_to_one": True}  # a picture has no noise at all
    theirs = DDIMInverseScheduler(**config, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    timesteps = ddim_timesteps(999, steps, "trailing")[::-1]
    x = expected = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in theirs.timesteps:
        expected = theirs.step(torch.tanh(expected), t, expected).prev_sample
    close(invert(x, lambda x, i: torch.tanh(x), timesteps, ABAR), expected, 1e-4)


def test_what_is_drawn_from_the_model_arrives_at_noise_and_nothing_else_does():
    """A model that knows unit normal features perfectly: its noise in x is sqrt(1 - abar) x at every level."""
    timesteps = ddim_timesteps(999, 200, "trailing")[::-1]
    z = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def predict(x, i):
        return (1 - ABAR[timesteps[i]]).sqrt() * x

    lengths = [invert(k * z, predict, timesteps, ABAR).square().mean().item() for k in (1, 3)]
    assert lengths[0] == pytest.approx(1, abs=0.1) and lengths[1] == pytest.approx(9 * lengths[0])


def test_inversion_finds_dents_without_an_autoencoder_and_repaints_nothing(plates, tmp_path):
    settings = {"variant": "inversion", "start": 999, "ddim_steps": 3, "spacing": "trailing", "steps": 80}
    detector = tiny(**settings, taps=(4,)).fit(plates)
    names = weights_of(detector)
    assert not any("autoencoder" in name or "guide" in name for name in names)
    results = inlier.evaluate(detector, plates)
    assert results.categories["plate"].image.auroc > 0.8
    prediction = detector.inspect(plates / "plate/test/dent/000.png")
    assert prediction.reconstruction is None and not detector.repaints
    detector.save(tmp_path / "m.inlier")
    assert not inlier.load(tmp_path / "m.inlier").repaints and tiny().repaints
    with pytest.raises(InlierError, match="cannot be halved"):
        tiny(variant="inversion", taps=(32,)).fit(plates)


@pytest.mark.parametrize("variant", ["ddpm", "ldm", "sg"])
def test_the_baselines_hold_what_they_name(plates, tmp_path, variant):
    detector = tiny(variant=variant).fit(plates, calibration="none")
    names = weights_of(detector)
    assert any(name.startswith("autoencoder.net") for name in names) == (variant != "ddpm")
    assert any("guide" in name for name in names) == (variant == "sg")
    assert not any("fusion" in name for name in names)
    detector.save(tmp_path / "m.inlier")
    before, after = (next(d.predict(plates / "plate/test")) for d in (detector, inlier.load(tmp_path / "m.inlier")))
    assert before.score == after.score


def test_pixels_in_patches_come_back():
    images = torch.rand(2, 3, 16, 16)
    pixels = Pixels(4)
    assert pixels.moments(images)[0].shape == (2, 48, 4, 4)
    assert torch.equal(pixels.decode(pixels.moments(images)[0]), images)


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_a_run_stopped_in_either_stage_goes_on_bit_for_bit(plates, plain, tmp_path, monkeypatch, stage):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    real, passes = diad.Run.generator, []

    def explode(run, *key):
        if run.folder and run.folder.name == stage and key == (2,):  # the third pass
            passes.append(key)
            raise KeyboardInterrupt
        return real(run, *key)

    monkeypatch.setattr(diad.Run, "generator", explode)
    with pytest.raises(KeyboardInterrupt):
        tiny().fit(plates, calibration="none", run_folder=tmp_path / "run")
    monkeypatch.setattr(diad.Run, "generator", real)
    assert passes and (tmp_path / "run" / stage / "checkpoint.safetensors").is_file()
    resumed = tiny().fit(plates, calibration="none", run_folder=tmp_path / "run", resume=True)
    assert same(plain, weights_of(resumed))
    resumed.save(tmp_path / "m.inlier")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "apart"),
    [
        ({"precision": "bf16"}, (1e-5, 1e-1)),
        ({"precision": "fp16"}, (1e-6, 1e-2)),
        ({"checkpointing": True}, (0, 1e-5)),
        ({"discriminator_start": 1}, (1e-3, 1e-1)),
        ({"discriminator_start": 1, "discriminator_weight": 0.0}, (0, 0)),  # it learns, and teaches nothing
        ({"discriminator_start": 1, "discriminator_weight": 0.0, "precision": "fp16"}, (1e-6, 1e-2)),
    ],
)
def test_ways_of_training(plates, plain, settings, apart, monkeypatch):
    """How far the weights are from those of the plain training, and the same again with the same seed."""
    monkeypatch.setattr(autoencoder, "Discriminator", functools.partial(Discriminator, 8))  # the full width takes long
    first, again = (weights_of(tiny(**settings).fit(plates, calibration="none")) for _ in range(2))
    assert same(first, again)
    # the latents' scale is measured afterwards, and follows from the weights
    learned = {name: tensor for name, tensor in first.items() if name != "latent_scale"}
    farthest = max((tensor - plain[name]).abs().max().item() for name, tensor in learned.items())
    assert apart[0] <= farthest <= apart[1]


def test_the_discriminator_waits_for_its_step_however_many_passes_a_step_has(plates, monkeypatch):
    calls = []

    class Counted(Discriminator):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    monkeypatch.setattr(autoencoder, "Discriminator", functools.partial(Counted, 8))
    tiny(discriminator_start=2, autoencoder_steps=3, autoencoder_accumulation=2).fit(plates, calibration="none")
    # two passes of the third step; in each the generator's view, real and made pictures
    assert calls.count(4) == 6


@pytest.fixture(scope="module")
def plain(plates):
    return weights_of(tiny().fit(plates, calibration="none"))


def test_a_tiny_autoencoder_is_trained(plates):
    detector = tiny(autoencoder_kind="tiny", autoencoder_channels=(8,) * 4)
    fresh, detector = built(detector).autoencoder.state_dict(), detector.fit(plates, calibration="none")
    assert not same(fresh, detector.network_.autoencoder.state_dict())
    assert np.isfinite(next(detector.predict(plates / "plate/test/good/000.png")).score)


def test_looks_at_reconstructions_are_kept_and_logged(plates, tmp_path):
    tiny(look_every=2).fit(plates, calibration="none", run_folder=tmp_path / "run", log_with="tensorboard")
    kept = sorted(str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*.png"))
    assert kept == ["autoencoder/autoencoder-000002.png", "denoiser/repainted-000002.png"]
    with Image.open(tmp_path / "run" / kept[1]) as picture:
        assert picture.size == (4 * 64, 2 * 64)
    events = list((tmp_path / "run/denoiser").rglob("events.*"))
    assert any(b"repainted" in path.read_bytes() for path in events)


def test_a_given_autoencoder_is_used_as_it_is(plates, tmp_path):
    net = Autoencoder("kl", (8, 8, 16), 1, 3, 8).net
    net.to(memory_format=torch.contiguous_format).save_pretrained(tmp_path / "ae")
    detector = tiny(autoencoder=str(tmp_path / "ae"), hint_channels=(4, 8, 8)).fit(plates, calibration="none")
    assert detector.settings_.latent_channels == 3 and detector.settings_.autoencoder_channels == (8, 8, 16)
    assert detector.settings.latent_channels == 4, "what the constructor was given stays"
    assert same(net.state_dict(), detector.network_.autoencoder.net.state_dict())
    detector.save(tmp_path / "m.inlier")
    (tmp_path / "ae").rename(tmp_path / "gone")
    again = inlier.load(tmp_path / "m.inlier")
    assert again.header()["weights"]["autoencoder"].startswith("ae")
    assert again.network_.latent_scale == detector.network_.latent_scale != 1


def test_from_stable_diffusion_to_a_model_that_needs_it_no_more(plates, tmp_path):
    network = small_network()
    path, state = stable_diffusion(network, tmp_path, "sd")
    settings = {**TINY, **SMALL, "pretrained": str(path), "autoencoder_steps": 1}
    detector = DiAD("light", **settings).fit(plates, calibration="none")
    trained = weights_of(detector)
    for name, original in ORIGINAL.items():
        if name in trained and name.startswith("denoiser.unet."):
            frozen = not original.startswith(("model.diffusion_model.out.", "model.diffusion_model.output_blocks"))
            assert torch.equal(trained[name], state[original].view(trained[name].shape)) == frozen, name
    assert "sd.ckpt, Stable Diffusion" in detector.header()["weights"]["pretrained"]
    detector.save(tmp_path / "m.inlier")
    path.unlink()
    assert inlier.load(tmp_path / "m.inlier").settings.pretrained == "sd.ckpt"  # its place is nobody else's business


def test_a_diad_checkpoint_becomes_a_model_without_training(plates, tmp_path):
    path, state = stable_diffusion(small_network(), tmp_path, "diad")
    detector = DiAD("light", **{**TINY, **SMALL, "pretrained": str(path), "steps": 0}).fit(plates)
    trained = weights_of(detector)
    assert all(torch.equal(trained[name], state[of].view(trained[name].shape)) for name, of in ORIGINAL.items()
               if name in trained)  # fmt: skip
    assert len(detector.calibration_.scores) == 8


def test_reconstructions_in_prediction_command_line_and_report(plates, tmp_path, monkeypatch, capsys):
    detector = tiny().fit(plates)
    p = next(detector.predict([np.full((50, 90), 120, np.uint8)]))
    assert p.reconstruction.shape == (50, 90, 3) and p.reconstruction.dtype == np.uint8
    detector.save(tmp_path / "m.inlier")
    report = write_report(inlier.evaluate(detector, plates), detector, tmp_path / "report").read_text()
    assert "reconstruction" in report
    out = tmp_path / "out"
    good = str(plates / "plate/test/good")
    arguments = ["inlier", "predict", str(tmp_path / "m.inlier"), good, "--reconstructions", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0 and len(list(out.glob("*.png"))) == 6
    inlier.PaDiM(size=32, backbone="tiny").fit(plates).save(tmp_path / "p.inlier")
    arguments[2] = str(tmp_path / "p.inlier")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "padim repaints nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 72}, "72 pixels do not fit an autoencoder of factor 8 and a U-Net of 3 levels.*multiple of 32"),
        ({"size": 32}, "at least 64"),
        ({"ddim_steps": 600}, "600 steps, but only 501 timesteps"),
        ({"start": 1000}, "the schedule has 1000 timesteps"),
        ({"channels": (16, 16)}, "the guide needs at least 3"),
        ({"hint_channels": (4, 8)}, "'hint_channels'.*the autoencoder's factor is 8"),
        ({"groups": 3}, "'groups': 3 does not divide all of channels=16,16,16"),
        ({"pool": 20}, "nothing is left of 64 pixels"),
        ({"channels": (0, 0, 0)}, "'channels': 0 is out of range"),
        ({"autoencoder_channels": (-8, 8)}, "'autoencoder_channels': -8 is out of range"),
        ({"autoencoder_kind": "tiny"}, "a tiny autoencoder has the same width at all levels"),
        ({"attention": (3,)}, "'attention': level 3, but the last of 'channels' is number 2"),
        ({"beta_start": 1.0, "beta_end": 1.0}, "nothing is left of the picture"),
        ({"timesteps": 100_000, "start": 99_999}, "nothing is left of the picture"),
        ({"steps": 0}, "'steps': 0, and no 'pretrained' model"),
        ({"autoencoder_steps": 0}, "'autoencoder_steps': 0, and no 'autoencoder'"),
        (
            {"perceptual_weight": 1e45},
            "lower the setting autoencoder_lr",
        ),
        ({"pretrained": "/nowhere.ckpt", "variant": "ddpm"}, "ddpm works on pixels.*pretrained=none"),
        ({"pretrained": "/nowhere.ckpt"}, "'pretrained': no file or folder /nowhere.ckpt"),
        ({"autoencoder": "/nowhere"}, "'autoencoder': no file or folder /nowhere"),
    ],
)
def test_settings_that_make_no_sense(plates, settings, words):
    with pytest.raises(InlierError, match=words):
        tiny(**settings).fit(plates, calibration="none")


def test_what_cannot_fit_into_memory_is_refused_before_it_starts(plates, monkeypatch):
    monkeypatch.setattr(diad, "memory_of_training", memory_of_training)
    with pytest.raises(InlierError, match=r"takes about .* GiB of memory.*accumulation.*checkpointing=true"):
        tiny(batch_size=10_000_000).fit(plates, calibration="none")
    small, large = (memory(tiny(batch_size=b)) for b in (2, 64))
    assert small < large and memory(tiny(batch_size=64, checkpointing=True)) < large
    half = memory(tiny(batch_size=64, precision="bf16"))
    assert large / 2 < half < large  # norms stay as they are


@pytest.mark.parametrize(
    ("preset", "settings", "low", "high"),
    [
        ("medium", {}, 4, 24),  # one GPU
        ("inversion", {}, 0.1, 1),
        ("medium", {"variant": "ddpm"}, 4, 24),
        ("medium", {"batch_size": 1, "autoencoder_batch": 1, "checkpointing": True}, 0.5, 4),
        ("paper", {}, 24, 40),  # the authors' 32 GB do
        ("paper", {"steps": 0}, 4, 8),  # nothing is trained
    ],
)
def test_memory_of_the_large_presets(preset, settings, low, high):
    assert low < memory(DiAD(preset, **settings)) / 2**30 < high


def test_without_diffusers_the_error_says_what_to_install(plates, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "diffusers" else real(name, *a))
    with pytest.raises(InlierError, match=r"pip install 'inlier\[diad\]'"):
        tiny().fit(plates)


def test_the_full_size_has_the_published_numbers_of_parameters():
    s = DiAD.presets["paper"]
    with torch.device("meta"):
        autoencoder = make_autoencoder(s)
        denoiser = make_denoiser(s, 4, 8)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert round(count(autoencoder) / 1e6, 1) == 83.7
    assert round(count(denoiser.unet) / 1e6, 1) == 859.5
    assert round(count(denoiser.guide.fusion) / 1e6, 1) == 110.6
    unused = 3 * (320 * 320 + 320) + (320 * 320 + 320) + 2 * (640 * 640 + 640)  # zero convolutions 0 to 5
    assert round((count(denoiser.guide) + unused) / 1e6, 1) == 471.9


def test_gaussians_judge_what_the_reconstruction_leaves_by_the_likeliest_category():
    generator = torch.Generator().manual_seed(0)
    residuals, shifts = Residuals((2, 2)), (0.0, 3.0)
    features = [torch.randn(60, 5, 2, 2, generator=generator) for _ in shifts]
    made = [f + 0.1 * torch.randn(f.shape, generator=generator) + shift for f, shift in zip(features, shifts)]
    sums = residuals.start(2, 5)
    for one, f, r in zip(sums, features, made):
        one.add(residuals.differences([f], [r]))
    residuals.finish(sums, 1e-6)
    for k in (0, 1):  # the distance is Mahalanobis', to the picture's own category
        found = residuals([features[k]], [made[k]])
        unit = torch.nn.functional.normalize(features[k], dim=1) - torch.nn.functional.normalize(made[k], dim=1)
        rows = (5**0.5 * unit)[:, :, 1, 0].double()
        covariance = rows.T.cov() + 1e-6 * torch.eye(5)
        centred = rows - rows.mean(0)
        expected = (centred @ covariance.inverse() * centred).sum(1).sqrt()
        torch.testing.assert_close(found[:, 1, 0].double(), expected, rtol=1e-3, atol=1e-3)


def test_a_category_of_one_fitted_picture_has_a_gaussian_too():
    residuals = Residuals((2, 2))
    good, made, other = torch.randn(3, 1, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    (sums,) = residuals.start(1, 5)
    sums.add(residuals.differences([good], [made]))
    residuals.finish([sums], 0.01)
    apart = residuals.differences([other], [made]) - residuals.differences([good], [made])
    torch.testing.assert_close(residuals([other], [made]).flatten(), apart.norm(dim=2).flatten() / 0.1)


def test_a_model_whose_gaussians_judge_is_loaded_with_all_its_categories(plates, tmp_path):
    detector = tiny(judge="gaussian").fit(plates, calibration="none")
    detector.save(tmp_path / "m.inlier")
    loaded = inlier.load(tmp_path / "m.inlier")
    assert len(loaded.network_.residuals.mean) == 1
    picture = next((plates / "plate/test/dent").iterdir())
    assert loaded.inspect(picture).score == detector.inspect(picture).score


def test_pictures_of_the_pretraining_are_the_same_whoever_draws_them():
    pytest.importorskip("skimage")
    spec = importlib.util.spec_from_file_location(
        "pretrain_diad", Path(__file__).parent.parent / "tools/pretrain_diad.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    ours, others = tool.Pictures(0, 100), tool.Pictures(0, 100)
    drawn = torch.stack([ours[i] for i in range(12)])
    assert torch.equal(torch.stack([others[i] for i in reversed(range(12))]).flip(0), drawn)
    assert not torch.equal(tool.Pictures(1, 100)[0], drawn[0]) and drawn.shape == (12, 3, tool.SIZE, tool.SIZE)
    assert drawn.min() >= 0 and drawn.max() <= 1 and drawn.std((1, 2, 3)).min() > 0.005
    is_grey = (drawn[:, :1] - drawn).abs().amax((1, 2, 3)) < 0.1  # but for noise
    assert 2 < is_grey.sum() < 10, "half of them"


def test_the_bundled_autoencoder_is_the_one_that_the_manifest_describes_and_knows_pictures():
    manifest = (BUNDLED.parent / "WEIGHTS.md").read_text()
    content = BUNDLED.read_bytes()
    assert f"| {len(content)} | {hashlib.sha256(content).hexdigest()} |" in manifest
    assert len(content) < 8 * 2**20
    network = built(DiAD("light", backbone="tiny"))
    fill_network(network.autoencoder.net, read_autoencoder(BUNDLED)[0], BUNDLED)
    y, x = np.mgrid[:64, :64]
    picture = torch.from_numpy((120 + 60.0 * ((y - 30) ** 2 + (x - 34) ** 2 < 256)) / 255).float().expand(1, 3, 64, 64)
    with torch.no_grad():
        seen = network.normalise(picture)
        made = network.autoencoder.decode(network.autoencoder.moments(seen)[0]) * network.std + network.mean
    assert 255 * float((made - picture).abs().mean()) < 6  # grey levels; the disc stands out by 60
