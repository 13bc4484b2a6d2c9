"""Finished pictures: written once as file + record + thumbnail + row, found again by row, rebuilt from the files."""

from studio.gallery.gallery import THUMBNAIL_SIDE, Gallery, Rebuilt
from studio.gallery.image import GalleryImage

__all__ = ["THUMBNAIL_SIDE", "Gallery", "GalleryImage", "Rebuilt"]
