"""Train the autoencoder that DiAD's preset `light` starts from, on pictures that anybody may use.

    python tools/pretrain_diad.py --minutes 60 --out src/inlier/methods/diad/autoencoder.safetensors [--device cuda]

What Stable Diffusion's autoencoder is to the paper, this one is to two processor cores: it knows edges, textures and
shades before it sees a part. Half of the pictures are drawn (dead leaves: shapes of all sizes that cover one another,
filled with shades and noise; Baradad et al., "Learning to See by Looking at Noise", NeurIPS 2021, arXiv 2106.05963),
half are crops of the photographs inside scikit-image's wheel, which are in the public domain or free to use (its
data/README.txt names each). No picture of a defect, no test picture of any benchmark, nothing is downloaded.

Loss: mean absolute difference and, in every second step, the squared difference of unit features of the embedded
network (as DiAD's first stage, see methods/diad/autoencoder.py). Adam, the rate falls as half a cosine over the time.
"""

import argparse
import importlib.util
import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from inlier.features import IMAGENET_MEAN, IMAGENET_STD, Backbone
from inlier.methods.diad.autoencoder import Autoencoder, perceptual

SIZE, BATCH = 128, 8
FIELDS = 128  # of noise, that leaves are filled with
PHOTOGRAPHS = [
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "clock_motion",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "ihc",
    "moon",
    "motorcycle_left",
    "page",
    "retina",
    "rocket",
    "text",
]


def photographs() -> list[Image.Image]:
    package = importlib.util.find_spec("skimage")
    assert package and package.origin, "pip install scikit-image"
    folder = Path(package.origin).parent / "data"
    return [Image.open(next(folder.glob(f"{name}.*"))).convert("RGB") for name in PHOTOGRAPHS]


def noise(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """(size, size) noise whose spectrum falls as a power of the frequency between 0.5 and 2; deviation 1, periodic."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    spectrum = rng.normal(size=(2, *frequency.shape)) / frequency ** rng.uniform(0.5, 2)
    spectrum[:, 0, 0] = 0
    drawn = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], (size, size))
    return np.asarray(drawn / max(drawn.std(), 1e-9), np.float32)


def leaves(rng: np.random.Generator, fields: list[NDArray[np.float32]], size: int) -> NDArray[np.float64]:
    """(size, size, 3) in [0, 255]: shapes that cover one another, drawn at twice the size, the size of the fields."""
    big = 2 * size
    picture = np.empty((big, big, 3))
    picture[:] = rng.uniform(0, 255, 3)
    contrast = rng.uniform(0.2, 1)
    for _ in range(rng.integers(5, 60)):
        mask = Image.new("1", (big, big))
        draw = ImageDraw.Draw(mask)
        radius = big * min(0.7, 0.01 * rng.pareto(1.2) + 0.01)
        centre = rng.uniform(0, big, 2)
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse([*(centre - radius), *(centre + radius)], 1)
        elif kind == 3:
            turn = rng.uniform(0, math.pi)
            way = 4 * radius * np.array([math.cos(turn), math.sin(turn)])
            draw.line([*(centre - way), *(centre + way)], 1, int(rng.integers(1, 6)))
        else:
            angles = np.sort(rng.uniform(0, 2 * math.pi, 3 + kind * int(rng.integers(1, 4))))
            points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            draw.polygon([tuple(point) for point in points.tolist()], 1)
        inside = np.asarray(mask)
        if not inside.any():
            continue
        colour = 127 + contrast * (rng.uniform(0, 255, 3) - 127)
        shade = np.zeros((big, big))
        if rng.random() < 0.7:
            rolled = np.roll(fields[rng.integers(len(fields))], rng.integers(big, size=2), (0, 1))
            shade = rng.uniform(0, 30) * rolled
        if rng.random() < 0.5:
            slope = rng.normal(0, 60 / big, 2)
            shade = shade + slope[0] * np.arange(big)[:, None] + slope[1] * np.arange(big)[None]
        picture[inside] = (colour + shade[..., None])[inside]
    return picture.reshape(size, 2, size, 2, 3).mean((1, 3))


def crop(rng: np.random.Generator, photographs: list[Image.Image], size: int) -> NDArray[np.float64]:
    """(size, size, 3) in [0, 255]: a crop of a photograph at a random scale, flipped or turned by a right angle."""
    image = photographs[rng.integers(len(photographs))]
    side = int(np.exp(rng.uniform(math.log(64), math.log(min(image.size)))))
    left, top = (int(rng.integers(length - side + 1)) for length in image.size)
    box = (left, top, left + side, top + side)
    turned = np.rot90(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box)), rng.integers(4))
    return (turned[:, ::-1] if rng.random() < 0.5 else turned).astype(np.float64)


class Pictures(Dataset[Tensor]):
    """Picture i is the same whoever draws it."""

    def __init__(self, seed: int, n: int):
        self.seed, self.n, self.photographs = seed, n, photographs()
        self.fields = [noise(np.random.default_rng((seed, i)), 2 * SIZE) for i in range(FIELDS)]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Tensor:
        """(3, SIZE, SIZE) in [0, 1]; half of them grey, as cameras in factories are."""
        rng = np.random.default_rng((self.seed, FIELDS + i))
        picture = leaves(rng, self.fields, SIZE) if rng.random() < 0.5 else crop(rng, self.photographs, SIZE)
        if rng.random() < 0.5:
            picture = np.repeat(picture.mean(2, keepdims=True), 3, 2)
        low, high = sorted(rng.uniform(0, 255, 2)) if rng.random() < 0.3 else (0, 255)
        picture = low + picture * max(high - low, 30) / 255 + rng.uniform(0, 4) * rng.normal(size=picture.shape)
        return torch.from_numpy(picture.clip(0, 255) / 255).float().permute(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--readers", type=int, default=1, help="processes that draw pictures")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    net = Autoencoder("tiny", (arguments.width,) * 4, 1, arguments.latent, 1)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    judge = Backbone("efficientnet_lite0", (4, 8, 16))
    judge.load(None)
    judge.requires_grad_(False).eval().to(device)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    optimizer = torch.optim.Adam(net.parameters(), arguments.lr, betas=(0.9, 0.99))
    averaged = {name: value.clone() for name, value in net.state_dict().items()}
    start, shown = time.monotonic(), 0.0
    # more than any machine comes to: time ends it
    stream = DataLoader(Pictures(arguments.seed, 10**9), BATCH, num_workers=arguments.readers)
    for step, drawn in enumerate(stream):
        if (done := (time.monotonic() - start) / (60 * arguments.minutes)) >= 1:
            break
        images = drawn.to(device)
        rate = arguments.lr * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * done)) / 2
        optimizer.param_groups[0]["lr"] = rate
        seen = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            made = net(seen, 0.0)[0].float()
        loss = far = (made - seen).abs().mean()
        if step % 2:
            with torch.no_grad():
                truth = judge(images)
            loss = far + perceptual(truth, judge(made * std + mean)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, value in net.state_dict().items():
                averaged[name].lerp_(value, 1 - min(0.999, (2 + step) / (11 + step)))
        if done - shown > 0.01:
            shown = done
            print(f"{done:4.0%} step {step} difference {255 * 0.226 * far.item():.2f} grey levels", flush=True)
            keep(averaged, arguments.out, step)
    keep(averaged, arguments.out, step)


def keep(state: dict[str, Tensor], path: Path, step: int) -> None:
    """Half precision: no rounding of a weight is as large as what one step of training changes."""
    tensors = {name.removeprefix("net."): value.half().contiguous() for name, value in state.items()}
    save_file(tensors, path, {"made by": "tools/pretrain_diad.py", "licence": "Apache-2.0", "steps": str(step)})


if __name__ == "__main__":
    main()
