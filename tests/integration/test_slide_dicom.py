"""Slides in DICOM: the finest level becomes the pyramid, however its tiles are coded and ordered."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit

from oncotwin.adapters.arrays.bounded import ProcessLimits
from oncotwin.adapters.arrays.slides import import_slide, is_dicom
from oncotwin.domain.claim import ArrayError

LIMITS = ProcessLimits(memory_bytes=3 << 30, cpu_s=60, wall_s=120)
TILE = 64
IMAGE = np.random.default_rng(3).integers(0, 255, (5, 4, 3), np.uint8).repeat(40, axis=0).repeat(40, axis=1)


def tiles_of(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    padded = np.pad(image, ((0, -image.shape[0] % TILE), (0, -image.shape[1] % TILE), (0, 0)), mode="edge")
    return [
        np.ascontiguousarray(padded[top : top + TILE, left : left + TILE])
        for top in range(0, padded.shape[0], TILE) for left in range(0, padded.shape[1], TILE)
    ]  # fmt: skip


def coded(tile: NDArray[np.uint8], syntax: UID) -> bytes:
    if syntax not in (JPEGBaseline8Bit, JPEG2000Lossless):
        return tile.tobytes()
    stream = io.BytesIO()
    if syntax == JPEGBaseline8Bit:
        Image.fromarray(tile).save(stream, "JPEG", quality=100, subsampling=0)
    else:
        Image.fromarray(tile).save(stream, "JPEG2000", no_jp2=True, irreversible=False)
    return stream.getvalue()


def instance(
    path: Path, image: NDArray[np.uint8] = IMAGE, syntax: UID = ExplicitVRLittleEndian, *,
    order: list[int] | None = None, spacing: float | None = 0.0005, fragments: int = 1, has_bot: bool = True,
    **changes: Any,
) -> Path:  # fmt: skip
    """One level of a slide; with an order its frames say where they lie."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tiles = tiles_of(image)
    kept = list(range(len(tiles))) if order is None else order
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.77.1.6")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = syntax
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    if syntax == JPEGBaseline8Bit:
        made.PhotometricInterpretation = "YBR_FULL_422"
    made.Rows = made.Columns = TILE
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = image.shape[:2]
    made.NumberOfFrames = len(kept)
    if spacing is not None:
        measures, shared = Dataset(), Dataset()
        measures.PixelSpacing = [spacing, spacing]
        shared.PixelMeasuresSequence = Sequence([measures])
        made.SharedFunctionalGroupsSequence = Sequence([shared])
    if order is None:
        made.DimensionOrganizationType = "TILED_FULL"
    else:
        across = -(-image.shape[1] // TILE)
        groups = []
        for at in order:
            position, group = Dataset(), Dataset()
            position.RowPositionInTotalImagePixelMatrix = at // across * TILE + 1
            position.ColumnPositionInTotalImagePixelMatrix = at % across * TILE + 1
            group.PlanePositionSlideSequence = Sequence([position])
            groups.append(group)
        made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    frames = [coded(tiles[at], syntax) for at in kept]
    if syntax.is_encapsulated:
        made.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=has_bot)
    else:
        made.PixelData = b"".join(frames)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = syntax.is_encapsulated
    for name, value in changes.items():
        setattr(made, name, value)
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    return path


def pixels(source: Path, um_per_pixel: float | None = None) -> NDArray[np.int64]:
    out = source.parent / f"{source.name}.out.zarr"
    made = import_slide(source, out, um_per_pixel, limits=LIMITS)
    assert made.um_per_pixel == (0.5, 0.5)
    return np.moveaxis(np.asarray(zarr.open_array(out / "0", mode="r")[:]), 0, 2).astype(np.int64)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless])
def test_tiles_without_loss_are_read_to_the_bit(tmp_path: Path, syntax: UID) -> None:
    np.testing.assert_array_equal(pixels(instance(tmp_path / "a.dcm", syntax=syntax)), IMAGE)


@pytest.mark.parametrize(("fragments", "has_bot"), [(1, True), (1, False), (2, True)])
def test_tiles_in_jpeg_are_what_the_toolkit_decodes(tmp_path: Path, fragments: int, has_bot: bool) -> None:
    path = instance(tmp_path / "a.dcm", syntax=JPEGBaseline8Bit, fragments=fragments, has_bot=has_bot)
    assert np.abs(pixels(path) - IMAGE).max() <= 4


def test_tiles_lie_where_their_frames_say(tmp_path: Path) -> None:
    order = [5, 0, 9, 2, 7, 4, 1, 8, 3, 6, 11, 10]
    np.testing.assert_array_equal(pixels(instance(tmp_path / "a.dcm", order=order)), IMAGE)
    sparse = pixels(instance(tmp_path / "b.dcm", order=[4]))
    np.testing.assert_array_equal(sparse[64:128, 64:128], IMAGE[64:128, 64:128])
    sparse[64:128, 64:128] = 255
    assert (sparse == 255).all()


def test_of_a_folder_the_finest_level_is_read(tmp_path: Path) -> None:
    instance(tmp_path / "s" / "1.dcm", IMAGE[::2, ::2], spacing=0.001)
    instance(tmp_path / "s" / "2.dcm")
    instance(tmp_path / "s" / "3.dcm", np.zeros((900, 900, 3), np.uint8), ImageType=["ORIGINAL", "PRIMARY", "LABEL"])
    (tmp_path / "s" / "readme.txt").write_text("a slide")
    assert is_dicom(tmp_path / "s")
    np.testing.assert_array_equal(pixels(tmp_path / "s"), IMAGE)


def rejected(source: Path, code: str, said: str = "", um_per_pixel: float | None = 0.5) -> None:
    """The slide is rejected and nothing is left of the attempt."""
    out = source.parent / "made" / "a.zarr"
    with pytest.raises(ArrayError) as caught:
        import_slide(source, out, um_per_pixel, limits=LIMITS, max_pixels=10_000_000)
    assert caught.value.reason_code == code, caught.value
    assert said in str(caught.value)
    assert not list(out.parent.iterdir())


def test_hostile_slides(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    rejected(instance(path, spacing=None), "no_pixel_size", "--mpp", um_per_pixel=None)
    rejected(instance(path, TotalPixelMatrixRows=2**31, TotalPixelMatrixColumns=2**31), "too_large")
    rejected(instance(path, TotalPixelMatrixRows=1_000), "bad_header", "frames")
    rejected(instance(path, NumberOfFrames=10**9), "bad_header", "frames")
    rejected(instance(path, BitsAllocated=16), "type_not_allowed")
    rejected(instance(path, TotalPixelMatrixFocalPlanes=3), "several_slides", "FocalPlanes")
    rejected(instance(path, order=[1, 1]), "several_slides", "one place")
    rejected(instance(path, ImageType=["ORIGINAL", "PRIMARY", "LABEL"]), "no_slide")
    rejected(instance(path, PhotometricInterpretation="YBR_FULL"), "codec_not_allowed")
    rejected(instance(path, syntax=JPEGBaseline8Bit, Rows=32), "bad_header")
    whole = instance(path, syntax=JPEGBaseline8Bit).read_bytes()
    path.write_bytes(whole[:-200])
    rejected(path, "cannot_decode", "cut off")
    path.write_bytes(whole[:200])
    rejected(path, "no_slide")
    instance(tmp_path / "s" / "1.dcm")
    instance(tmp_path / "s" / "2.dcm")
    rejected(tmp_path / "s", "several_slides", "several files")
