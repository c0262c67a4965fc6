"""All numbers of DifferNet."""

from dataclasses import dataclass

from inlier import settings
from inlier.errors import InlierError
from inlier.settings import setting


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    taps: tuple[int | str, ...] = setting((32,), "layers whose channel means are the features")
    deviations: bool = setting(False, "the features are deviations of the channels, too")
    size: int = setting(448, "height and width of the largest scale, pixels", low=32, high=4096)
    scales: int = setting(3, "each half as large as the one before (section 3.2)", low=1, high=6)
    whiten: float | None = setting(
        None,
        "decorrelate the features on the fitted images, this much noise (a variance) added; new views (view_pool 0) "
        "need 0.1 or more; none: as they are",
        low=1e-9,
        high=1.0,
    )
    rotation: float = setting(180.0, "views are turned by up to so many degrees, either way", low=0.0, high=180.0)
    mirror: bool = setting(False, "views in training are flipped left to right, every second one on average")
    flip: bool = setting(False, "views in training are flipped top to bottom, every second one on average")
    brightness: float = setting(0.0, "views in training are up to this share brighter or darker", low=0.0, high=1.0)
    contrast: float = setting(0.0, "views in training have up to this share more or less contrast", low=0.0, high=1.0)
    fill: str = setting("black", "what lies outside the picture when it is turned", choices=("black", "reflect"))
    views: int = setting(4, "views of each image in a step", low=1, high=1024)
    test_views: int | None = setting(
        64, "views that are scored, at evenly spaced angles; none: as many as are trained on", low=1, high=1024
    )
    view_pool: int | None = setting(
        0,
        "train on so many views an image, at evenly spaced angles, features cached; 0: new ones; none: the most of 4, "
        "2 and 1 at which good pictures look like good ones",
        low=0,
        high=1024,
    )
    blocks: int = setting(8, "coupling blocks (section 4.2)", low=1, high=64)
    width: int = setting(2048, "hidden units of the networks inside a block", low=1, high=16384)
    clamp: float = setting(3.0, "bound of a block's log scale, softly (equation 5; times 0.636 pi / 2)", low=1e-3)
    epochs: int = setting(192, "passes over the good pictures (the code's 24 x 8)", low=1)
    steps: int | None = setting(None, "training steps, instead of epochs", low=1, instead_of="epochs")
    batch_size: int = setting(24, "images in a step", low=1)
    lr: float = setting(2e-4, "Adam learning rate", low=1e-9, high=1.0)
    weight_decay: float = setting(1e-5, "Adam weight decay", low=0.0)
    sigma: float = setting(3.0, "gaussian smoothing of the gradients, pixels", low=0.0, high=100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.view_pool and self.view_pool < self.views:
            raise InlierError(f"setting 'views': {self.views} in a step, but only {self.view_pool} in 'view_pool'")
