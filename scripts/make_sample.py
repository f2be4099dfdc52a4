# SPDX-License-Identifier: MIT
"""Makes examples/data/coffee.npy: a photograph cut into raw pixel patches, the input of connectors without an encoder.

    pip download --no-deps scikit-image && unzip scikit_image-*.whl 'skimage/data/coffee.png'
    pip install numpy pillow
    python scripts/make_sample.py skimage/data/coffee.png

The middle 378 x 378 pixels of the photograph (600 x 400), not resampled. 27 x 27 patches of 14 x 14 pixels, patches
row by row; inside a patch the pixels row by row, and red, green, blue of each: feature (dy * 14 + dx) * 3 + channel. A
pixel p becomes 2 p / 255 - 1, rounded to float16. Source and licence: examples/data/README.md.
"""

import argparse
import hashlib
import pathlib
import zlib

import numpy as np
from PIL import Image

SOURCE_SHA256 = "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"
PATCH = 14
GRID = 27


def patches(pixels):
    """(378, 378, 3) uint8 -> (1, 729, 588) float16."""
    cut = pixels.reshape(GRID, PATCH, GRID, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(1, GRID * GRID, -1)
    return (cut * (2 / 255) - 1).astype(np.float16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=pathlib.Path, help="coffee.png of scikit-image")
    default = pathlib.Path(__file__).parent.parent / "examples/data/coffee.npy"
    parser.add_argument("-o", "--output", type=pathlib.Path, default=default)
    arguments = parser.parse_args()
    found = hashlib.sha256(arguments.picture.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        raise SystemExit(f"{arguments.picture}: not the expected picture (sha256 {found}, expected {SOURCE_SHA256})")
    pixels = np.asarray(Image.open(arguments.picture).convert("RGB"))
    side = PATCH * GRID
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    features = patches(pixels[top : top + side, left : left + side])
    np.save(arguments.output, features)
    data = arguments.output.read_bytes()
    print(f"{arguments.output}: {features.shape} float16, {len(data)} bytes")
    print(f"sha256 {hashlib.sha256(data).hexdigest()}, crc32 0x{zlib.crc32(data):08x}")


if __name__ == "__main__":
    main()
