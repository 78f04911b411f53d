"""Slides: images of every kind become the same pyramid, and hostile ones a message."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image

from oncotwin.adapters.arrays import slides
from oncotwin.adapters.arrays.bounded import ProcessLimits
from oncotwin.adapters.arrays.slides import halve, import_slide, write_pyramid
from oncotwin.adapters.arrays.zarr_check import check_zarr
from oncotwin.domain.claim import ArrayError

LIMITS = ProcessLimits(memory_bytes=2 << 30, cpu_s=60, wall_s=120)


def tissue(height: int, width: int) -> NDArray[np.uint8]:
    """An image without symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([(3 * y + x) % 251, (y * x // 7) % 253, (x // 3 + y // 5) % 256], axis=2).astype(np.uint8)


def tiff(tiles: list[bytes], shape: tuple[int, int], tile: int, *, big: bool = False, **tags: Any) -> bytes:
    """A tiled TIFF, byte by byte; tags by number as `t_256`."""
    letter, size = ("Q", 8) if big else ("I", 4)
    head = 16 if big else 8
    body, offsets = b"", []
    for one in tiles:
        offsets.append(head + len(body))
        body += one
    values: dict[int, tuple[int, Any]] = {
        256: (4, [shape[1]]), 257: (4, [shape[0]]), 258: (3, [8, 8, 8]), 259: (3, [8]), 262: (3, [2]), 277: (3, [3]),
        322: (4, [tile]), 323: (4, [tile]), 324: (4, offsets), 325: (4, [len(one) for one in tiles]),
    }  # fmt: skip
    values |= {int(name[2:]): value for name, value in tags.items()}
    entries = b""
    for tag, (kind, value) in sorted(values.items()):
        raw = (
            value
            if isinstance(value, bytes)
            else struct.pack(f"<{len(value)}{'HI'[kind - 3] if kind < 5 else 'I'}", *value)
        )
        count = len(value) if kind != 5 else len(value) // 2
        if len(raw) > size:
            at = head + len(body)
            body += raw
            raw = struct.pack("<" + letter, at)
        entries += struct.pack("<HH" + letter, tag, kind, count) + raw.ljust(size, b"\0")
    start = struct.pack("<HHHQ", 43, 8, 0, head + len(body)) if big else struct.pack("<HI", 42, head + len(body))
    return b"II" + start + body + struct.pack("<Q" if big else "<H", len(values)) + entries + bytes(8)


def tiles_of(image: NDArray[np.uint8], tile: int) -> list[NDArray[np.uint8]]:
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    return [
        np.ascontiguousarray(padded[top : top + tile, left : left + tile])
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]


def level(folder: Path, at: int = 0) -> NDArray[np.uint8]:
    return np.moveaxis(np.asarray(zarr.open_array(folder / str(at), mode="r")[:]), 0, 2)


def test_a_picture_becomes_a_pyramid(tmp_path: Path) -> None:
    image = tissue(1_301, 1_030)
    Image.fromarray(image).save(tmp_path / "a.png")
    told: list[tuple[int, int]] = []
    made = import_slide(
        tmp_path / "a.png", tmp_path / "a.zarr", 0.25, limits=LIMITS, progress=lambda *n: told.append(n)
    )
    assert made.shapes == ((1_301, 1_030), (651, 515), (326, 258))
    assert told == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(level(tmp_path / "a.zarr"), image)
    np.testing.assert_array_equal(level(tmp_path / "a.zarr", 2)[..., 1], halve(halve(image[..., 1])))
    assert set(check_zarr(tmp_path / "a.zarr").arrays) == {"0", "1", "2"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.zarr"}
    ome = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (scales,) = ome["multiscales"]
    assert [axis["name"] for axis in scales["axes"]] == ["c", "y", "x"]
    assert scales["datasets"][2] == {
        "path": "2",
        "coordinateTransformations": [
            {"type": "scale", "scale": [1.0, 1.0, 1.0]},
            {"type": "translation", "translation": [0.0, 0.375, 0.375]},
        ],
    }


def test_halving_is_the_rounded_mean_whatever_the_edge() -> None:
    plane = tissue(7, 5)[..., 0]
    padded = np.pad(plane.astype(float), ((0, 1), (0, 1)), mode="edge")
    mean = padded.reshape(4, 2, 3, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(halve(plane), np.floor(mean + 0.5))


def test_a_pyramid_does_not_depend_on_the_size_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tissue(2_100, 1_700)
    found = []
    for pixels in (4_096, 1_024, 512):
        monkeypatch.setattr(slides, "SHARD_PIXELS", pixels)
        folder = tmp_path / str(pixels)
        shapes = write_pyramid(lambda y, x: image[y, x], (2_100, 1_700), folder, "a", (1.0, 1.0))
        found.append([level(folder, at) for at in range(len(shapes))])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1"])
def test_every_mode_becomes_colours(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(tissue(300, 200)).convert(mode)
    image.save(tmp_path / "a.tif")
    import_slide(tmp_path / "a.tif", tmp_path / "a.zarr", 0.5, limits=LIMITS)
    np.testing.assert_array_equal(level(tmp_path / "a.zarr"), np.asarray(image.convert("RGB")))


def test_glass_behind_a_see_through_picture_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (30, 20), (10, 20, 30, 0)).save(tmp_path / "a.png")
    import_slide(tmp_path / "a.png", tmp_path / "a.zarr", 0.5, limits=LIMITS)
    assert (level(tmp_path / "a.zarr") == 255).all()


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compression", [1, 8])
def test_a_tiled_tiff_is_read_tile_by_tile(tmp_path: Path, compression: int, big: bool) -> None:
    image = tissue(700, 530)
    tiles = [one.tobytes() if compression == 1 else zlib.compress(one.tobytes()) for one in tiles_of(image, 256)]
    raw = tiff(
        tiles, (700, 530), 256, big=big, t_259=(3, [compression]), t_270=(2, b"Aperio |AppMag = 20|MPP = 0.4990\0")
    )
    (tmp_path / "a.svs").write_bytes(raw)
    made = import_slide(tmp_path / "a.svs", tmp_path / "a.zarr", limits=LIMITS)
    assert made.um_per_pixel == made.um_per_pixel_of_file == (0.499, 0.499)
    np.testing.assert_array_equal(level(tmp_path / "a.zarr"), image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.svs")), image)


def test_jpeg_tiles_with_shared_tables_are_what_the_imaging_library_reads(tmp_path: Path) -> None:
    image = tissue(300, 200)
    Image.fromarray(image).save(
        tmp_path / "a.tif", compression="jpeg", quality=90, resolution_unit=3, resolution=20_000
    )
    made = import_slide(tmp_path / "a.tif", tmp_path / "a.zarr", limits=LIMITS)
    assert made.um_per_pixel == (0.5, 0.5)
    with Image.open(tmp_path / "a.tif") as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(level(tmp_path / "a.zarr") - expected).max() <= 2


def test_jpeg_tiles_of_plain_colours(tmp_path: Path) -> None:
    image = np.broadcast_to(np.array([200, 40, 120], np.uint8), (64, 64, 3))
    stream = io.BytesIO()
    Image.frombytes("YCbCr", (64, 64), np.ascontiguousarray(image).tobytes()).save(stream, "JPEG", quality=100)
    raw = stream.getvalue()
    # Take out the marker that says how the channels are meant: the directory says it.
    start = raw.index(b"\xff\xe0")
    raw = raw[:start] + raw[start + 2 + int.from_bytes(raw[start + 2 : start + 4], "big") :]
    (tmp_path / "a.tif").write_bytes(tiff([raw], (64, 64), 64, t_259=(3, [7])))
    import_slide(tmp_path / "a.tif", tmp_path / "a.zarr", 1.0, limits=LIMITS)
    assert np.abs(level(tmp_path / "a.zarr").astype(int) - image).max() <= 2


def rejected(image: Path, code: str, um_per_pixel: float | None = 0.5, limits: ProcessLimits = LIMITS) -> str:
    """The image is rejected and nothing is left of the attempt."""
    out = image.parent / "made" / "a.zarr"
    with pytest.raises(ArrayError) as caught:
        import_slide(image, out, um_per_pixel, limits=limits, max_pixels=100_000_000)
    assert caught.value.reason_code == code, caught.value
    assert not list(out.parent.iterdir())
    return str(caught.value)


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG that claims a size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_hostile_images_are_messages(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(png(60_000, 60_000, b""))
    assert "3,600,000,000" in rejected(image, "too_large") or "60,000" in rejected(image, "too_large")
    image.write_bytes(png(1_000, 1_000, b"cut"))
    rejected(image, "cannot_decode")
    image.write_bytes(b"nothing")
    rejected(image, "cannot_decode")
    Image.fromarray(tissue(50, 50)).save(tmp_path / "b.gif")
    rejected(tmp_path / "b.gif", "cannot_decode")
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(image)
    rejected(image, "type_not_allowed")
    image.write_bytes(png(9_000, 9_000, bytes(9_000 * 27_001)))
    rejected(image, "out_of_memory", limits=ProcessLimits(memory_bytes=400 << 20))


def test_hostile_tiffs_are_messages(tmp_path: Path) -> None:
    image = tmp_path / "a.tif"
    tile = zlib.compress(bytes(64 * 64 * 3))
    image.write_bytes(tiff([tile], (64, 64), 64)[:-60])
    rejected(image, "bad_header")
    image.write_bytes(tiff([tile], (10**6, 10**6), 64))
    rejected(image, "too_large")
    image.write_bytes(tiff([tile], (640, 640), 64))
    rejected(image, "bad_header")
    image.write_bytes(tiff([zlib.compress(bytes(10))], (64, 64), 64))
    rejected(image, "cannot_decode")
    image.write_bytes(tiff([b"no deflate"], (64, 64), 64))
    rejected(image, "cannot_decode")
    image.write_bytes(tiff([tile], (64, 64), 64, t_324=(4, [10**9])))
    rejected(image, "cannot_decode")
    image.write_bytes(tiff([tile], (64, 64), 64, t_347=(7, b"x" * 40)).replace(struct.pack("<I", 40), b"\xff" * 4))
    rejected(image, "bad_header")
    bomb = zlib.compress(bytes(1 << 28))
    image.write_bytes(tiff([bomb], (64, 64), 64, t_325=(4, [len(bomb)])))
    rejected(image, "bad_header")


def test_a_pixel_size_is_given_or_read_and_never_assumed(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    Image.fromarray(tissue(64, 64)).save(image, dpi=(72, 72))
    assert "--mpp" in rejected(image, "no_pixel_size", um_per_pixel=None)
    with pytest.raises(ArrayError, match="no size of a pixel"):
        import_slide(image, tmp_path / "x", -1.0)
    Image.fromarray(tissue(64, 64)).save(tmp_path / "b.tif", dpi=(72, 72))
    rejected(tmp_path / "b.tif", "no_pixel_size", um_per_pixel=None)
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError):
        import_slide(image, tmp_path / "there", 0.5)


def test_what_a_killed_import_left_is_removed(tmp_path: Path) -> None:
    for name in (".a.zarr.import-x1", ".b.zarr.import-x2", ".other.x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows").write_bytes(b"")
    with pytest.raises(ArrayError):
        import_slide(tmp_path / "missing.png", tmp_path / "a.zarr", 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.zarr.import-x2", ".other.x"]
