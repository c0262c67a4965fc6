"""DiAD equals the numbers of the authors' code at reduced width: guide, fusion, noise, DDIM, autoencoder, loss, map."""

import json

import pytest
import torch
from safetensors import safe_open

from golden import FOLDER, close, fill, load
from inlier.maps import smooth_upsample_matrix
from inlier.methods.diad import Network, Settings
from inlier.methods.diad.checkpoints import our_name
from inlier.methods.diad.compare import anomaly_map, distances, image_score
from inlier.methods.diad.sampler import add_noise, ddim, ddim_times, noise_of, schedule

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
        time = network.denoiser.times(t)[1]
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
    times = ddim_times(999, 10, "leading")
    assert times == GOLDEN["out.ddim.timesteps"].tolist()
    close(ABAR[times], GOLDEN["out.ddim.alpha"], 5e-6)
    close(ABAR[[*times[1:], 0]], GOLDEN["out.ddim.alpha_prev"], 5e-6)
    seen = []

    def predict(x, i):
        seen.append(x[0])
        return network.denoiser(x, torch.tensor([times[i]]), GOLDEN["in.hint"])

    with torch.no_grad():
        last = ddim(GOLDEN["in.x"], predict, times, ABAR)
    close(torch.stack([*seen[1:], last[0]]), GOLDEN["out.ddim.steps"], 3e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [10, 5, 2])
def test_ddim_is_that_of_diffusers(spacing, steps):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(**CASE["configs"]["DDIMScheduler"], timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    times = ddim_times(999, steps, spacing)
    assert times == theirs.timesteps.tolist()
    x = expected = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in theirs.timesteps:
        expected = theirs.step(torch.tanh(expected), t, expected).prev_sample
    close(ddim(x, lambda x, i: torch.tanh(x), times, ABAR), expected, 1e-4)


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
    images = torch.rand(3, 3, 32, 32)
    together = noise_of(images, (4, 8, 8))
    alone = noise_of(images[1:2] + 1e-4, (4, 8, 8))  # the same in 8 bit
    assert torch.equal(together[1], alone[0]) or not torch.equal(
        (255 * images[1]).round(), (255 * (images[1] + 1e-4)).round()
    )
    assert not torch.equal(together[0], together[1])
    assert torch.equal(noise_of(images[1:2], (4, 8, 8))[0], together[1])
