"""Training data as parts of a recipe: what the teacher makes, and folders and files of a user."""

from surgery.data.base import AnyData, Data
from surgery.data.fashion import FashionMNIST, read_fashion
from surgery.data.generated import Generated, read_prompts
from surgery.data.images import Images, read_images
from surgery.data.latents import LatentRows, Latents, read_latents
from surgery.data.pictures import Picture, Pictures
from surgery.data.videos import Videos, read_videos

__all__ = [
    "AnyData",
    "Data",
    "FashionMNIST",
    "Generated",
    "Images",
    "LatentRows",
    "Latents",
    "Picture",
    "Pictures",
    "Videos",
    "read_fashion",
    "read_images",
    "read_latents",
    "read_prompts",
    "read_videos",
]
