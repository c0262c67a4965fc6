"""Reading images and datasets."""

from inlier.data.datasets import Dataset, Report, Sample, check, open_dataset
from inlier.data.images import Batch, ImageError, Preprocess, list_images, read_batches, read_image, read_mask

__all__ = [
    "Batch",
    "Dataset",
    "ImageError",
    "Preprocess",
    "Report",
    "Sample",
    "check",
    "list_images",
    "open_dataset",
    "read_batches",
    "read_image",
    "read_mask",
]
