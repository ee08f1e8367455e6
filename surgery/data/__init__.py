"""Folders and files of a user as training data: images, videos, latents."""

from surgery.data.base import AnyData, Data
from surgery.data.images import Images, read_images
from surgery.data.latents import LatentRows, Latents, read_latents
from surgery.data.pictures import Picture, Pictures
from surgery.data.videos import Videos, read_videos

__all__ = [
    "AnyData",
    "Data",
    "Images",
    "LatentRows",
    "Latents",
    "Picture",
    "Pictures",
    "Videos",
    "read_images",
    "read_latents",
    "read_videos",
]
