"""DiAD: a diffusion model repaints the picture as good, and a pretrained network compares the two.

He et al., "A Diffusion-Based Framework for Multi-Class Anomaly Detection", AAAI 2024, arXiv 2312.06607.
Checked against numbers made with the authors' code (lewandofskee/DiAD, Apache-2.0, commit d281300) at reduced width.

Same mathematics, other computation. The released guidance of 9 has two equal branches, so it does nothing but double
the cost: there is one branch here. Of the guide's thirteen outputs the six that nobody reads are not computed. Hint
and time embeddings are computed once for all steps, and latents of the training images once for all epochs. Batches of
any size; the noise comes from the picture's own pixels, so the same picture has the same score always, but for rounding
(some 1e-7 between batches of other sizes).

What differs: the authors keep the epoch that is best on the test set; here the last step is the model and the test set
is never seen. LPIPS is replaced (see autoencoder.py). Followed where paper and code differ: the code (the guide reaches
the middle block and the deepest skips only; it has no decoder of its own). Where there is no pretrained U-Net, all of
it is trained and the prompt is a learned constant. The pixel-space baseline can stack patches into channels.
"""

import logging
from pathlib import Path

import torch
from torch import nn

from inlier.detector import Detector
from inlier.errors import InlierError
from inlier.features import Backbone
from inlier.features.weights import in_folder
from inlier.good import Images
from inlier.methods.diad.autoencoder import Autoencoder
from inlier.methods.diad.checkpoints import fill, load_pretrained, read_autoencoder
from inlier.methods.diad.inversion import Inversion, learn_inversion
from inlier.methods.diad.learning import cache_moments, learn_autoencoder, learn_denoiser, learn_residuals
from inlier.methods.diad.memory import memory_of_training
from inlier.methods.diad.network import Network, Repainting
from inlier.methods.diad.settings import Settings
from inlier.runtime.torch import TorchRuntime
from inlier.training import Run

log = logging.getLogger("inlier")
BUNDLED = Path(__file__).parent / "autoencoder.safetensors"  # made by tools/pretrain_diad.py, which says from what


class DiAD(Detector[Settings, Network | Inversion]):
    """One diffusion model for all categories repaints pictures as good; what it changed is the defect."""

    name = "diad"
    candidates = ()  # takes hours
    repaints = True
    memory_advice = (
        "use a smaller 'batch_size' with more 'accumulation' and a smaller 'autoencoder_batch' with more "
        "'autoencoder_accumulation' (the same training), 'checkpointing=true', 'precision=bf16', or preset 'light'"
    )
    presets = {
        "paper": Settings(backbone="resnet50_a1", pretrained="v1-5-pruned.ckpt"),
        # one GPU, no pretrained weights
        "medium": Settings(
            size=256,
            autoencoder_channels=(64, 128, 256, 256),
            autoencoder_steps=20_000,
            autoencoder_batch=16,
            autoencoder_accumulation=1,
            latent_scale=None,
            posterior="mode",
            discriminator_start=None,
            patch=8,
            channels=(128, 256, 384, 384),
            attention=(1, 2, 3),
            context_tokens=1,
            context_width=128,
            hint_channels=(16, 32, 64, 128),
            steps=40_000,
            batch_size=32,
            accumulation=1,
            lr=1e-4,
            warm_up=500,
            decay=True,
            ema=0.999,
            precision="bf16",
            spacing="trailing",
        ),
        # two CPU cores, a quarter of an hour; what the reconstruction leaves is judged by what it leaves on good parts
        "light": Settings(
            size=256,
            autoencoder="bundled",
            autoencoder_tuning=40,
            # what the bundled one is, for an autoencoder that is trained from nothing (autoencoder=none)
            autoencoder_kind="tiny",
            autoencoder_channels=(32, 32, 32, 32),
            autoencoder_layers=1,
            latent_channels=16,
            autoencoder_steps=800,
            autoencoder_batch=4,
            autoencoder_accumulation=1,
            autoencoder_lr=1e-3,
            latent_scale=None,
            posterior="mode",
            discriminator_start=None,
            patch=4,
            channels=(32, 64, 128),
            attention=(2,),
            heads=4,
            groups=8,
            context_tokens=1,
            context_width=32,
            hint_channels=(16, 16, 32, 64),
            steps=1200,
            batch_size=4,
            accumulation=1,
            lr=1e-3,
            warm_up=100,
            decay=True,
            ema=0.995,
            precision="auto",
            look_every=500,
            # from pure noise a network of this size, trained so shortly, paints no sharp part
            start=300,
            ddim_steps=3,
            spacing="trailing",
            judge="gaussian",
            sigma=4.0,
            pool=4,
        ),
        # two CPU cores, some minutes: no autoencoder, no reconstruction
        "inversion": Settings(
            variant="inversion",
            size=256,
            taps=(16,),
            channels=(64, 128),
            attention=(1,),
            heads=4,
            groups=8,
            context_tokens=1,
            context_width=32,
            steps=1500,
            batch_size=8,
            accumulation=1,
            lr=1e-3,
            warm_up=100,
            decay=True,
            ema=0.999,
            precision="auto",
            ddim_steps=3,
            spacing="trailing",
            sigma=8.0,
        ),
    }

    def export_graph(self) -> nn.Module:
        network = self.network_
        return network if isinstance(network, Inversion) else Repainting(network)

    def build(self, s: Settings) -> Network | Inversion:
        _check_diffusers()
        return Inversion(s) if s.variant == "inversion" else Network(s)

    def _runtime(self, network: Network | Inversion, device: torch.device) -> TorchRuntime:
        self.repaints = isinstance(network, Network)  # type: ignore[misc]  # of the method, but for one variant
        return super()._runtime(network, device)

    def build_backbone(self, s: Settings) -> Backbone:
        return Backbone(s.backbone, s.taps)

    def complete(self) -> Settings:
        """A finished autoencoder brings its own sizes."""
        _check_diffusers()
        s = self.settings
        if s.variant == "inversion":
            if s.steps == 0:
                raise InlierError("setting 'steps': 0, and variant inversion knows no parts without training")
            return s
        if s.autoencoder and s.variant != "ddpm":
            s = s.replace(**read_autoencoder(_find("autoencoder", s.autoencoder))[1])
        if s.pretrained and s.variant == "ddpm":
            raise InlierError("settings 'variant', 'pretrained': ddpm works on pixels, Stable Diffusion's U-Net on "
                              "latents; it needs pretrained=none")  # fmt: skip
        if s.pretrained:
            _find("pretrained", s.pretrained)
        elif s.steps == 0:
            raise InlierError("setting 'steps': 0, and no 'pretrained' model that needs no training")
        elif s.autoencoder_steps == 0 and not s.autoencoder and s.variant != "ddpm":
            raise InlierError("setting 'autoencoder_steps': 0, and no 'autoencoder' that needs no training")
        return s

    def memory_needed(self, s: Settings) -> int:
        return memory_of_training(s)

    def learn(self, network: Network | Inversion, images: Images, run: Run) -> None:
        s = network.s
        if isinstance(network, Inversion):
            learn_inversion(network, images, run)
            return
        has_autoencoder = self._start_from_others(network)
        pixels, _ = images.cache(run)
        tuning = s.autoencoder_tuning if s.steps else 0  # without steps a finished model stays as it is
        steps = tuning if has_autoencoder else s.autoencoder_steps
        if isinstance(network.autoencoder, Autoencoder) and steps:
            learn_autoencoder(network, pixels, steps, run.stage("autoencoder"))
        network.autoencoder.requires_grad_(False)
        moments = cache_moments(network, pixels, run)
        learn_denoiser(network, pixels, moments, run.stage("denoiser"))
        if network.residuals:
            learn_residuals(network, pixels, images.categories)

    def _start_from_others(self, network: Network) -> bool:
        """Fill in what others trained; returns whether a finished autoencoder is among it."""
        s = network.s
        is_whole = False
        if s.pretrained:
            path = _find("pretrained", s.pretrained)
            kept = network.autoencoder if isinstance(network.autoencoder, Autoencoder) and not s.autoencoder else None
            is_whole = load_pretrained(network.denoiser, kept, path, len(s.autoencoder_channels))
            network.denoiser.freeze()
            self.weights_["pretrained"] = f"{path.name}, {'DiAD' if is_whole else 'Stable Diffusion'}; its own licence"
            log.info("pretrained: %s", path)
        if s.autoencoder and isinstance(network.autoencoder, Autoencoder):
            path = _find("autoencoder", s.autoencoder)
            fill(network.autoencoder.net, read_autoencoder(path)[0], path)
            licence = "Apache-2.0, as this package" if path == BUNDLED else "its own licence"
            self.weights_["autoencoder"] = f"{path.name}; {licence}"
            log.info("autoencoder: %s", path)
        return is_whole or s.autoencoder is not None


def _check_diffusers() -> None:
    import importlib.util

    if not importlib.util.find_spec("diffusers"):
        raise InlierError("diad needs the package diffusers: pip install 'inlier[diad]'")


def _find(name: str, text: str) -> Path:
    """A file or folder: as given, or in the folder named by INLIER_WEIGHTS."""
    if name == "autoencoder" and text == "bundled":
        return BUNDLED
    places = [Path(text), *in_folder(text)]
    for place in places:
        if place.exists():
            return place
    tried = " and ".join(map(str, places))
    raise InlierError(
        f"setting '{name}': no file or folder {tried}; give its path with --set {name}=PATH, "
        f"or --set {name}=none to train from nothing"
    )
