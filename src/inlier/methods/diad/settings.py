"""All numbers of DiAD."""

from dataclasses import dataclass

from inlier import settings
from inlier.settings import setting


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    variant: str = setting(
        "sg+sff",
        "sg+sff: the method; sg: no fusion; ldm: no guide at all; ddpm: diffusion on pixels (figure 1, ablation); "
        "inversion: nothing is repainted, see preset inversion (arXiv 2504.05662)",
        choices=("ddpm", "ldm", "sg", "sg+sff", "inversion"),
    )
    taps: tuple[int | str, ...] = setting((4, 8, 16), "layers that compare picture and reconstruction")
    input: str = setting(
        "imagenet",
        "what autoencoder and guide see: ImageNet-normalised pixels as in the code, or [-1, 1] as in published ones",
        choices=("imagenet", "unit"),
    )
    # where the weights come from
    pretrained: str | None = setting(
        None,
        "Stable Diffusion 1.5 (folder, .safetensors or .ckpt) or your diad.ckpt; none: all is trained from nothing",
        place=True,
    )
    autoencoder: str | None = setting(
        None,
        "a finished autoencoder: folder, .safetensors, .ckpt, or 'bundled': the package's own; used as it is, but for "
        "autoencoder_tuning",
        place=True,
    )
    autoencoder_tuning: int = setting(0, "steps in which a finished autoencoder learns the parts", low=0)
    # first stage
    autoencoder_kind: str = setting("kl", "AutoencoderKL or AutoencoderTiny", choices=("kl", "tiny"))
    autoencoder_channels: tuple[int, ...] = setting(
        (128, 256, 512, 512), "widths; all levels but one halve the size", low=1
    )
    autoencoder_layers: int = setting(2, "residual blocks a level", low=1, high=8)
    autoencoder_groups: int = setting(32, "groups of its group norm", low=1)
    latent_channels: int = setting(4, "channels of the latent", low=1, high=64)
    latent_scale: float | None = setting(
        0.18215, "factor that gives latents unit variance; none: measured on the fitted images", low=1e-6, high=1e6
    )
    posterior: str = setting(
        "sample", "the latent: a sample of the posterior as in the code, or its mode", choices=("sample", "mode")
    )
    patch: int = setting(1, "variant ddpm: side of the patches that are stacked into channels", low=1, high=32)
    autoencoder_steps: int = setting(25_000, "steps of the first stage (issue 31 of the code)", low=0)
    autoencoder_batch: int = setting(4, "images in a pass", low=1)
    autoencoder_accumulation: int = setting(8, "passes in a step", low=1)
    autoencoder_lr: float = setting(1.8e-4, "Adam learning rate, betas 0.5 and 0.9 (4 x 4.5e-5)", low=1e-9, high=1.0)
    perceptual_weight: float = setting(1.0, "weight of the perceptual term", low=0.0)
    divergence_weight: float = setting(1e-6, "weight of the Kullback-Leibler term", low=0.0)
    discriminator_start: int | None = setting(
        50_001,
        "step from which a discriminator takes part; beyond the last step, or none: never (the paper's case)",
        low=0,
    )
    discriminator_weight: float = setting(0.5, "weight of the adversarial term", low=0.0)
    # denoiser and guide
    channels: tuple[int, ...] = setting((320, 640, 1280, 1280), "widths of the U-Net", low=1)
    attention: tuple[int, ...] = setting((0, 1, 2), "levels with attention, 0 = the largest maps", low=0)
    heads: int = setting(8, "attention heads", low=1)
    groups: int = setting(32, "groups of the group norm", low=1)
    context_tokens: int = setting(77, "length of the constant that stands for the prompt", low=1)
    context_width: int = setting(768, "its width", low=1)
    hint_channels: tuple[int, ...] = setting(
        (16, 32, 96, 256), "widths of the hint encoder; all but one halve the size", low=1
    )
    # second stage
    steps: int = setting(76_000, "training steps: 1000 epochs of MVTec AD's 3629 good pictures in batches of 48", low=0)
    batch_size: int = setting(12, "images in a pass", low=1)
    accumulation: int = setting(4, "passes in a step", low=1)
    lr: float = setting(1e-5, "AdamW learning rate", low=1e-9, high=1.0)
    weight_decay: float = setting(0.01, "AdamW weight decay", low=0.0)
    warm_up: int = setting(0, "steps in which the learning rate rises", low=0)
    decay: bool = setting(False, "let the learning rate fall to zero as half a cosine, in both stages")
    ema: float | None = setting(None, "the model is a moving average of the weights with this decay", low=0.0, high=1.0)
    precision: str = setting(
        "fp32",
        "of the training: fp32, autocast, or auto: bf16 where the processor multiplies it by itself",
        choices=("fp32", "bf16", "fp16", "auto"),
    )
    checkpointing: bool = setting(False, "compute activations again instead of keeping them: less memory, more time")
    look_every: int = setting(5000, "steps between two pictures of reconstructions in the run folder", low=1)
    # noise
    timesteps: int = setting(1000, "length of the noise schedule", low=2, high=100_000)
    beta_start: float = setting(0.00085, "first noise variance", low=1e-8, high=1.0)
    beta_end: float = setting(0.012, "last noise variance", low=1e-8, high=1.0)
    start: int = setting(999, "timestep to which a picture is noised before it is repainted", low=0)
    ddim_steps: int = setting(10, "DDIM steps of the repainting (eta 0)", low=1)
    spacing: str = setting(
        "leading",
        "leading: steps at 901 ... 1 as in the code; trailing: at 999 ... 99",
        choices=("leading", "trailing"),
    )
    # comparison
    judge: str = setting(
        "cosine",
        "of the differences: their cosine, as published, or a Gaussian for each category and position, of what the "
        "reconstruction leaves on good pictures",
        choices=("cosine", "gaussian"),
    )
    epsilon: float = setting(0.01, "judge gaussian: added to the diagonal of every covariance", low=1e-9)
    sigma: float = setting(5.0, "gaussian smoothing of the map, pixels", low=0.0, high=100.0)
    pool: int = setting(8, "side of the average pooling before the maximum that is the image score", low=1)
    pools: int = setting(8, "how many of them", low=0)

    @property
    def is_adversarial(self) -> bool:
        return self.discriminator_start is not None and self.discriminator_start < self.autoencoder_steps
