"""Foreign images turned into plain rows of pixels; called in a process of its own, see `bounded`.

A JPEG or PNG is decoded whole (four bytes a pixel, in the child alone). A TIFF in tiles or strips, an Aperio SVS among
them, is decoded tile by tile, so that its size does not matter.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oncotwin.adapters.arrays.tiff_tiles import check_pixels, open_tiff
from oncotwin.domain.claim import ArrayError

FORMATS = ("JPEG", "PNG", "TIFF")
"""Decoders that are let loose on foreign bytes; the library has some forty more."""

_BAND_ROWS = 256
_WHITE = (255, 255, 255)
_APERIO_SIZE = re.compile(r"\|\s*MPP\s*=\s*([0-9.]{1,12})")
_OME_SIZE = re.compile(r"""PhysicalSize([XY])\s*=\s*["']([0-9.eE+-]{1,24})["']""")
_OME_UNIT = re.compile(r"""PhysicalSize[XY]Unit\s*=\s*["']([^"']{1,8})["']""")
_PLAUSIBLE_UM = (0.02, 20.0)


def decode_image(path: str, out: str, max_pixels: int) -> dict[str, Any]:
    """Decode an image into a file of rows: (height, width, 3) bytes, red, green, blue.

    Args:
        path: the image.
        out: the file to write.
        max_pixels: bound on height times width.
    Returns:
        `height`, `width`, `format`, and `um_per_pixel` as [y, x] or None where the file does not say it. A JPEG or PNG
        never does: what it holds is a resolution for printing.
    Raises:
        ArrayError: another format, too many pixels, samples of other than 8 bits, or damaged.
    """
    with open(path, "rb") as file:
        head = file.read(4)
        if head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            tiff = open_tiff(file, max_pixels)
            if tiff is not None:
                tiff.write_rows(Path(out))
                return _answer(
                    tiff.height, tiff.width, "TIFF", _described(tiff.description) or _resolved(tiff.resolution)
                )
    # Its own bound warns first and then raises; ours is exact and says what to do.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        check_pixels(height, width, max_pixels)
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
            raise ArrayError("type_not_allowed", f"has pixels of mode {image.mode}", "", "send 8 bits a colour")
        image.load()
        _write_bands(image, out)
        return _answer(height, width, str(image.format), None)


def _write_bands(image: Image.Image, out: str) -> None:
    """Write an image band by band: its conversion to colours never exists as a whole."""
    width, height = image.size
    see_through = image.mode in ("LA", "RGBA") or "transparency" in image.info
    with open(out, "wb") as file:
        for top in range(0, height, _BAND_ROWS):
            band = image.crop((0, top, width, min(top + _BAND_ROWS, height)))
            if see_through:
                # Where there is no ink there is glass, and that is white under the lamp.
                shown = band.convert("RGBA")
                band = Image.new("RGB", band.size, _WHITE)
                band.paste(shown, mask=shown.getchannel("A"))
            file.write(np.asarray(band.convert("RGB")).tobytes())


def _described(text: str) -> tuple[float, float] | None:
    """Pixel size (y, x) in micrometres that a TIFF's description states: Aperio's, or OME's."""
    aperio = _APERIO_SIZE.search(text)
    if aperio:
        return _plausible(float(aperio[1]), float(aperio[1]))
    sizes = {axis: float(size) for axis, size in _OME_SIZE.findall(text)}
    units = set(_OME_UNIT.findall(text))
    if sizes.keys() == {"X", "Y"} and units <= {"µm", "um"}:
        return _plausible(sizes["Y"], sizes["X"])
    return None


def _resolved(resolution: tuple[float, float] | None) -> tuple[float, float] | None:
    """Pixel size by the resolution for printing, where a microscope's program put it there."""
    return None if resolution is None else _plausible(*resolution)


def _plausible(y_um: float, x_um: float) -> tuple[float, float] | None:
    """A pixel size (y, x), unless no microscope has it: 72 dots an inch are said by programs that do not know."""
    low, high = _PLAUSIBLE_UM
    return (y_um, x_um) if low <= y_um <= high and low <= x_um <= high else None


def _answer(height: int, width: int, kind: str, size: tuple[float, float] | None) -> dict[str, Any]:
    return {"height": height, "width": width, "format": kind, "um_per_pixel": None if size is None else list(size)}
