"""Following a face through frames, with a stand-in for the networks."""

import numpy as np
import pytest
from talking_portrait.core_models.face.landmarker import DetectedFace
from talking_portrait.core_models.face.tracking import TILE_SEARCH_INTERVAL, follow_face


def face_at(x, y=50.0, side=20.0):
    return DetectedFace(np.zeros((478, 3)), np.zeros(52), 1.0, (x - side / 2, y - side / 2, side, side))


class PaintedFaces:
    """A landmarker for frames in which a red pixel is a face and its green value half the face's side."""

    def __init__(self):
        self.tile_searches = 0

    def detect(self, frame, max_faces=10, at_least=1, search_tiles=True):
        self.tile_searches += search_tiles
        faces = [face_at(x, y, 2.0 * frame[y, x, 1]) for y, x in np.argwhere(frame[..., 0] == 255)]
        return sorted(faces, key=lambda face: -face.area)

    def track(self, frame, previous):
        """The face within half its side of where it was."""
        close = list(self.detect(frame, search_tiles=False))
        close = [
            face for face in close if np.hypot(*np.subtract(face.centre, previous.centre)) < face.box[2] / 2
        ]
        return close[0] if close else None


def frame_with(*faces):
    frame = np.zeros((100, 300, 3), np.uint8)
    for x, side in faces:
        frame[50, x] = (255, side // 2, 0)
    return frame


def centres(frames, **options):
    return [face and face.centre[0] for face in follow_face(frames, PaintedFaces(), **options)]


def test_chosen_face_is_kept_though_another_grows_larger():
    frames = [frame_with((50, 40), (200, 20 + 10 * step)) for step in range(6)]
    assert centres(frames) == [50] * 6
    assert centres(frames, face_index=1) == [200] * 6


def test_first_face_may_come_late():
    assert centres([frame_with(), frame_with(), frame_with((80, 20))]) == [None, None, 80]


def test_lost_face_is_found_again_near_where_it_was():
    """After a gap the nearer face is taken, not the larger one."""
    frames = [
        frame_with((50, 30)),
        frame_with(),
        frame_with((80, 30), (250, 60)),
        frame_with((82, 30), (250, 60)),
    ]
    assert centres(frames) == [50, None, 80, 82]


def test_jump_is_found_anywhere():
    assert centres([frame_with((20, 20)), frame_with((280, 20))]) == [20, 280]


def test_unclear_choice_is_an_error():
    with pytest.raises(ValueError, match="2 faces"):
        centres([frame_with((50, 40), (200, 36))])


def test_faceless_video_does_not_search_tiles_in_every_frame():
    landmarker = PaintedFaces()
    frames = [frame_with()] * (3 * TILE_SEARCH_INTERVAL)
    assert list(follow_face(frames, landmarker)) == [None] * len(frames)
    assert landmarker.tile_searches == 3


def test_frames_are_taken_one_at_a_time():
    taken = []

    def frames():
        for step in range(5):
            taken.append(step)
            yield frame_with((50 + step, 40))

    follower = follow_face(frames(), PaintedFaces())
    next(follower)
    assert taken == [0]
