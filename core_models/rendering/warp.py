"""The warp: moved triangles become a map from each output pixel back to the photo.

The map is worked out on a coarse grid and enlarged, which costs a fraction of full resolution and, with a
light blur, is also the antialiasing of silhouettes. Only the bounding box of the moving region is touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .displacement import smoothstep

SUBPIXEL_BITS = 6
STEEPEST_GRADIENT = 10.0
"""Triangles squeezed more than this would show as dots; they are left out and filled from around."""
SMALLEST_AREA = 1e-3
"""Square grid cells."""
HOLE_FILL_SIGMA = 3.0
GUARD_SHARE = 0.10
"""Of the face's height: over this distance from the picture's edge the motion fades in."""
GRID_CELLS_ACROSS_FACE = 90
BAND_COUNT = 8
DENSE_LIMIT = 4_000_000
"""Picture pixels of which a texture of double density is kept; it takes 12 bytes for each."""
TEXTURE_MARGIN = 8
"""Picture pixels around the region that the texture includes."""
FLIP_TOLERANCE = 0.02
"""Share of a triangle's usual area by which it may be flipped in the photo before it is left out."""


@dataclass(frozen=True)
class WarpGrid:
    """Where the warp happens; constant per photo.

    origin: (2,) int, picture pixel (x, y) of the region's corner.
    step: picture pixels between samples; each sample is the middle of a block of step x step pixels.
    shape: (rows, columns) of samples.
    region: (height, width) of the warped region in picture pixels.
    inside: (rows, columns, 2) float32, 1 where the picture may move, times the guard at the picture's edges.
    fillable: (rows, columns) bool, samples well inside, where a hole must be filled.
    moving: (height, width) bool, the pixels of the region that may change.
    bands: (row slice, column slice) of the region, which together hold every moving pixel.
    """

    origin: np.ndarray
    step: int
    shape: tuple[int, int]
    region: tuple[int, int]
    inside: np.ndarray
    fillable: np.ndarray
    moving: np.ndarray
    bands: tuple[tuple[slice, slice], ...]

    @property
    def region_slices(self) -> tuple[slice, slice]:
        """Rows and columns of the region in the picture."""
        x, y = self.origin
        return slice(y, y + self.region[0]), slice(x, x + self.region[1])

    @property
    def first_sample(self) -> np.ndarray:
        """(2,) picture coordinates of the first sample."""
        return self.origin + (self.step - 1) / 2

    @property
    def blur_sigma(self) -> float:
        """Samples by which the map is blurred: the antialiasing of silhouettes."""
        return max(0.6, 1.2 / self.step)

    @property
    def softness(self) -> float:
        """The same in picture pixels."""
        return self.blur_sigma * self.step

    def to_samples(self, points: np.ndarray) -> np.ndarray:
        """Return picture points (N, 2) in sample units."""
        return ((points - self.first_sample) / self.step).astype(np.float32)


@dataclass(frozen=True)
class TriangleMesh:
    """What does not change from frame to frame.

    triangles: (T, 3) int32, drawable in the photo.
    orientation: (T,) float32, +1 or -1: the sign of each triangle's area when it faces the camera.
    layer: (T,) float32: 0 eye and mouth interiors, 1 skin, 2 upper lids and upper lip; higher is drawn
        over lower.
    source: (N, 2) float32, where each vertex is in the photo, in picture pixels.
    """

    triangles: np.ndarray
    orientation: np.ndarray
    layer: np.ndarray
    source: np.ndarray


def make_grid(outline: np.ndarray, face_width: float, face_height: float, size: tuple[int, int]) -> WarpGrid:
    """Return the grid over a closed outline (N, 2) in picture pixels, clipped to a picture of `size` (w, h).

    Raises ValueError when the outline lies outside the picture.
    """
    width, height = size
    low = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 1, (width, height))
    if (high <= low).any():
        raise ValueError(f"the face lies outside the picture of {width} x {height} pixels")
    step = max(1, round(face_width / GRID_CELLS_ACROSS_FACE))
    region = (int(high[1] - low[1]), int(high[0] - low[0]))
    shape = (-(-region[0] // step), -(-region[1] // step))
    first = low + (step - 1) / 2
    filled = _filled(outline, first, step, shape)
    columns = first[0] + step * np.arange(shape[1])
    rows = first[1] + step * np.arange(shape[0])
    guard = edge_guard(columns[None, :], rows[:, None], size, GUARD_SHARE * face_height)
    moving = _spread_over_pixels(filled, step, region) > 0
    return WarpGrid(
        origin=low,
        step=step,
        shape=shape,
        region=region,
        inside=np.repeat((filled * guard)[..., None], 2, axis=2).astype(np.float32),
        fillable=_eroded(filled),
        moving=moving,
        bands=_moving_bands(moving),
    )


def _filled(outline: np.ndarray, first: np.ndarray, step: int, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    points = np.round((outline - first) / step * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [points], 1, cv2.LINE_8, SUBPIXEL_BITS)
    return mask.astype(np.float32)


def _eroded(filled: np.ndarray) -> np.ndarray:
    kernel = np.ones((5, 5), np.uint8)
    return cv2.erode(filled, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def edge_guard(x: np.ndarray, y: np.ndarray, size: tuple[int, int], reach: float) -> np.ndarray:
    """Return 0 on (or beyond) the edges of a picture of `size` (w, h) to 1 at `reach` pixels from them."""
    reach = max(reach, 1.0)
    across = smoothstep(0, reach, np.minimum(x, size[0] - 1 - x))
    return across * smoothstep(0, reach, np.minimum(y, size[1] - 1 - y))


def _spread_over_pixels(samples: np.ndarray, step: int, region: tuple[int, int]) -> np.ndarray:
    """Return samples (rows, columns, ...) interpolated over the region's pixels."""
    if step > 1:
        size = (samples.shape[1] * step, samples.shape[0] * step)
        samples = cv2.resize(samples, size, interpolation=cv2.INTER_LINEAR)
    return samples[: region[0], : region[1]]


def _moving_bands(moving: np.ndarray) -> tuple[tuple[slice, slice], ...]:
    """Return bands of rows, each as wide as what moves in it, so that the corners need no resampling."""
    height = -(-len(moving) // BAND_COUNT)
    bands = []
    for top in range(0, len(moving), height):
        columns = np.flatnonzero(moving[top : top + height].any(axis=0))
        if len(columns):
            bands.append((slice(top, min(top + height, len(moving))), slice(columns[0], columns[-1] + 1)))
    return tuple(bands)


def signed_areas(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return (T,) twice the signed area of each triangle of points (N, 2)."""
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    edge, other = b - a, c - a
    return edge[:, 0] * other[:, 1] - edge[:, 1] * other[:, 0]


def drawable_in_photo(areas: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Return (T,) bool: triangles that face the camera in the photo (nostrils and a far cheek may not)."""
    return areas * orientation > -FLIP_TOLERANCE * np.median(np.abs(areas))


def source_displacement(
    mesh: TriangleMesh, points: np.ndarray, depth: np.ndarray, grid: WarpGrid
) -> np.ndarray:
    """Return (rows, columns, 2) float32: how far from each sample its source lies, in picture pixels.

    points: (N, 2) the moved vertices in picture pixels; depth: (N,) towards the camera, any unit below 100.
    """
    samples = grid.to_samples(points)
    order, affines = _affines_in_draw_order(mesh, samples, depth, grid)
    identifiers = _rasterised(samples, mesh.triangles[order], grid.shape)
    displacement = _evaluated(affines, identifiers)
    _fill_holes(displacement, (identifiers == len(order)) & grid.fillable)
    soft = cv2.GaussianBlur(displacement, (0, 0), grid.blur_sigma, borderType=cv2.BORDER_REPLICATE)
    return cv2.multiply(soft, grid.inside, dst=soft)


def _affines_in_draw_order(
    mesh: TriangleMesh, samples: np.ndarray, depth: np.ndarray, grid: WarpGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Return the visible triangles, far ones first, and per triangle the 6 numbers of its displacement.

    The displacement at sample (x, y) is (a x + b y + c, d x + e y + f); one row of zeros follows the last.
    """
    triangles = mesh.triangles
    corner = samples[triangles[:, 0]]
    edge, other = samples[triangles[:, 1]] - corner, samples[triangles[:, 2]] - corner
    area = edge[:, 0] * other[:, 1] - edge[:, 1] * other[:, 0]
    safe = np.where(np.abs(area) > SMALLEST_AREA, area, 1)
    source = mesh.source[triangles[:, 0]]
    source_edge = mesh.source[triangles[:, 1]] - source
    source_other = mesh.source[triangles[:, 2]] - source
    by_x = (source_edge * other[:, 1:] - source_other * edge[:, 1:]) / safe[:, None]
    by_y = (source_other * edge[:, :1] - source_edge * other[:, :1]) / safe[:, None]
    steepness = np.maximum(np.abs(by_x), np.abs(by_y)).max(axis=1) / grid.step
    visible = (area * mesh.orientation > SMALLEST_AREA) & (steepness < STEEPEST_GRADIENT)
    order = np.flatnonzero(visible)
    rank = depth[triangles[order]].mean(axis=1) + 100.0 * mesh.layer[order]
    order = order[np.argsort(rank, kind="stable")]
    constant = source - by_x * corner[:, :1] - by_y * corner[:, 1:] - grid.first_sample
    by_x, by_y = by_x - (grid.step, 0), by_y - (0, grid.step)
    table = np.stack([by_x[:, 0], by_y[:, 0], constant[:, 0], by_x[:, 1], by_y[:, 1], constant[:, 1]])
    padded = np.zeros((6, len(order) + 1), np.float32)
    padded[:, :-1] = table[:, order]
    return order, padded


def _rasterised(samples: np.ndarray, triangles: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return (rows, columns) int32: the index of the last triangle drawn at each sample, or their count."""
    identifiers = np.full(shape, len(triangles), np.int32)
    corners = np.round(samples * (1 << SUBPIXEL_BITS)).astype(np.int32)[triangles]
    for index, triangle in enumerate(corners):
        cv2.fillConvexPoly(identifiers, triangle, index, cv2.LINE_8, SUBPIXEL_BITS)
    return identifiers


def _evaluated(affines: np.ndarray, identifiers: np.ndarray) -> np.ndarray:
    """Return (rows, columns, 2) float32: each sample's displacement by its own triangle's affine."""
    rows, columns = identifiers.shape
    x = np.arange(columns, dtype=np.float32)[None, :]
    y = np.arange(rows, dtype=np.float32)[:, None]
    result = np.empty((rows, columns, 2), np.float32)
    for axis in range(2):
        a, b, c = (np.take(affines[3 * axis + term], identifiers) for term in range(3))
        a *= x
        b *= y
        a += b
        np.add(a, c, out=result[..., axis])
    return result


def _fill_holes(displacement: np.ndarray, holes: np.ndarray) -> None:
    """Give samples that no triangle covers the average of those around them, in place."""
    if not holes.any():
        return
    margin = int(4 * HOLE_FILL_SIGMA)
    rows, columns = np.flatnonzero(holes.any(axis=1)), np.flatnonzero(holes.any(axis=0))
    window = (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )
    hole, patch = holes[window], displacement[window]
    known = np.where(hole, 0, 1).astype(np.float32)
    weight = cv2.GaussianBlur(known, (0, 0), HOLE_FILL_SIGMA)
    spread = cv2.GaussianBlur(patch * known[..., None], (0, 0), HOLE_FILL_SIGMA)
    patch[hole] = spread[hole] / np.maximum(weight[hole], 1e-4)[:, None]


@dataclass(frozen=True)
class Texture:
    """The photo as the warp samples it.

    pixels: (h, w, 3) uint8, `density` samples per picture pixel, of which every `density`-th is the photo's
        own; the first lies at picture pixel `origin` (x, y).
    interpolation: an OpenCV flag.
    own_places: (rows + 2, columns + 2, 2) float32, texture coordinates of the grid's samples and of one more
        all around.
    """

    pixels: np.ndarray
    origin: np.ndarray
    density: int
    interpolation: int
    own_places: np.ndarray


def make_texture(picture: np.ndarray, grid: WarpGrid, cubic: bool) -> Texture:
    """Return the texture of an (H, W, 3) uint8 picture for a grid.

    Cubic interpolation costs three times as much as linear. Up to DENSE_LIMIT pixels it is therefore done
    once, halfway between all pixels; linear interpolation between those differs by 48 to 50 dB on photos.
    """
    if not cubic:
        return _texture(picture, np.zeros(2, int), 1, cv2.INTER_LINEAR, grid)
    height, width = picture.shape[:2]
    low = np.maximum(grid.origin - TEXTURE_MARGIN, 0)
    high = np.minimum(grid.origin + grid.region[::-1] + TEXTURE_MARGIN, (width, height))
    if np.prod(high - low) > DENSE_LIMIT:
        return _texture(picture, np.zeros(2, int), 1, cv2.INTER_CUBIC, grid)
    x = np.arange(low[0], high[0] - 0.5, 0.5, np.float32)
    y = np.arange(low[1], high[1] - 0.5, 0.5, np.float32)
    maps = np.broadcast_to(x, (len(y), len(x))), np.broadcast_to(y[:, None], (len(y), len(x)))
    dense = cv2.remap(picture, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return _texture(dense, low, 2, cv2.INTER_LINEAR, grid)


def _texture(
    pixels: np.ndarray, origin: np.ndarray, density: int, interpolation: int, grid: WarpGrid
) -> Texture:
    first = grid.first_sample - grid.step - origin
    rows, columns = (np.arange(count + 2, dtype=np.float32) for count in grid.shape)
    x, y = np.meshgrid(first[0] + grid.step * columns, first[1] + grid.step * rows)
    return Texture(pixels, origin, density, interpolation, (density * np.dstack([x, y])).astype(np.float32))


def enlarged(displacement: np.ndarray, grid: WarpGrid, texture: Texture) -> np.ndarray:
    """Return the map (height, width, 2) float32 of texture coordinates, for `resample`."""
    coarse = cv2.copyMakeBorder(displacement, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    places = cv2.scaleAdd(coarse, texture.density, texture.own_places)
    if grid.step > 1:
        size = (places.shape[1] * grid.step, places.shape[0] * grid.step)
        places = cv2.resize(places, size, interpolation=cv2.INTER_LINEAR)
    return places[grid.step : grid.step + grid.region[0], grid.step : grid.step + grid.region[1]]


def resample(texture: Texture, source_map: np.ndarray, grid: WarpGrid, canvas: np.ndarray) -> None:
    """Write the texture at the map's coordinates into the canvas (height, width, 3) uint8, where it may move.

    The photo's own pixels are exact.
    """
    for band in grid.bands:
        cv2.remap(
            texture.pixels,
            source_map[band],
            None,
            texture.interpolation,
            dst=canvas[band],
            borderMode=cv2.BORDER_REFLECT,
        )
