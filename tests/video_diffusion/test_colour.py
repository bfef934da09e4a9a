"""Colour over a clip: drift is measured by window, and taken away without touching what moves quickly."""

import logging

import pytest
import torch
from talking_portrait.core_models.video_diffusion.wan import clip_frames
from talking_portrait.core_models.video_diffusion.wan.colour import (
    LARGEST_GAIN,
    ColourStatistics,
    DriftCorrection,
    corrected_chunks,
    frame_means,
    log_window_colours,
    window_means,
)

PICTURE = 0.4 * torch.randn(3, 8, 10, generator=torch.Generator().manual_seed(3))
REFERENCE = ColourStatistics.of_picture(PICTURE)
QUICK = DriftCorrection(settling=4.0)


def still(count):
    return PICTURE[:, None].expand(3, count, 8, 10)


def whole(chunks, correction=QUICK):
    return torch.cat(list(corrected_chunks(chunks, REFERENCE, correction)), dim=1)


class TestMeasure:
    def test_is_the_mean_of_each_channel_in_each_window(self):
        levels = torch.tensor([0.0, 0.0, 1.0, 3.0, 5.0])
        frames = levels[None, :, None, None] * torch.tensor([1.0, -1.0])[:, None, None, None]
        means = frame_means(frames.expand(2, 5, 4, 6))
        torch.testing.assert_close(means, torch.stack([levels, -levels], dim=1))
        found = window_means(means, [(0, 2), (2, 5)])
        torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [3.0, -3.0]]))

    def test_of_chunks_is_that_of_the_whole(self):
        frames = torch.randn(4, 9, 3, 3)
        parts = [frame_means(part) for part in frames.split(4, dim=1)]
        torch.testing.assert_close(torch.cat(parts), frame_means(frames))

    @pytest.mark.parametrize("window", [(2, 2), (-1, 3), (3, 6)])
    def test_of_frames_that_are_not_there_is_refused(self, window):
        with pytest.raises(ValueError, match="is not one of a clip of 5"):
            window_means(torch.zeros(5, 3), [(0, 5), window])

    def test_says_how_windows_differ(self, caplog):
        frames = torch.zeros(3, 9, 4, 4)
        frames[0, 4:], frames[2] = 0.25, 0.5
        with caplog.at_level(logging.INFO):
            log_window_colours(frames, [(0, 4), (4, 8), (8, 12), (12, 16)])
        assert "of the 3 windows of the clip: 0.000 0.000 0.500; 0.250 0.000 0.500; 0.250" in caplog.text
        assert caplog.text.strip().endswith("the largest difference between two is 0.250")

    def test_says_nothing_of_a_single_window(self, caplog):
        with caplog.at_level(logging.INFO):
            log_window_colours(torch.zeros(3, 9, 4, 4), [(0, 9), (9, 12)])
        assert not caplog.text

    @pytest.mark.parametrize(("windows", "said"), [(None, 2), ([(0, 30), (30, 60), (60, 90)], 3)])
    def test_is_logged_as_a_clip_is_decoded(self, windows, said, caplog, monkeypatch):
        monkeypatch.setattr(clip_frames, "decoded_chunks", lambda *_: [still(1), *[still(4)] * 21])
        with caplog.at_level(logging.INFO):
            frames = clip_frames.decoded_frames(None, torch.zeros(16, 22, 2, 2), kept=83, windows=windows)
        assert frames.shape == (83, 8, 10, 3)
        assert f"mean colour of the {said} windows" in caplog.text
        assert "between two is 0.000" in caplog.text

    def test_of_other_shapes_is_refused(self):
        with pytest.raises(ValueError, match=r"expected \(C, N, H, W\)"):
            frame_means(torch.zeros(3, 8, 8))
        with pytest.raises(ValueError, match=r"expected \(C, H, W\)"):
            ColourStatistics.of_picture(torch.zeros(1, 3, 8, 8))


class TestCorrection:
    def test_leaves_a_clip_without_drift_as_it_is(self):
        torch.testing.assert_close(whole([still(6)]), still(6))

    def test_brings_a_drifted_clip_back_to_the_picture(self):
        drifted = 0.8 * still(60) + torch.tensor([0.3, -0.2, 0.1])[:, None, None, None]
        found = whole([drifted])
        torch.testing.assert_close(found[:, -1], PICTURE, atol=1e-4, rtol=0)

    def test_fades_in(self):
        found = whole([still(20) + 0.4])
        distance = (found - still(20)).abs().mean(dim=(0, 2, 3))
        assert distance[0] == pytest.approx(
            0.3, abs=1e-4
        )  # a quarter of the drift, as it settles in 4 frames
        assert (distance[1:] < distance[:-1]).all()

    def test_of_half_strength_takes_half_of_the_drift_away(self):
        found = whole([still(60) + 0.4], DriftCorrection(strength=0.5, settling=4.0))
        torch.testing.assert_close(found[:, -1], PICTURE + 0.2, atol=1e-4, rtol=0)

    def test_of_no_strength_changes_nothing(self):
        frames = torch.randn(3, 5, 8, 10)
        torch.testing.assert_close(whole([frames], DriftCorrection(strength=0.0)), frames)

    def test_leaves_a_single_flash_in_place(self):
        frames = still(40).clone()
        frames[:, 20] += 0.5
        found = whole([frames], DriftCorrection(settling=23.0))
        assert (found[:, 20] - PICTURE).mean() == pytest.approx(0.5 * 22 / 23, abs=0.01)

    def test_does_not_depend_on_how_frames_are_chunked(self):
        frames = torch.randn(3, 11, 8, 10)
        torch.testing.assert_close(whole(frames.split(3, dim=1)), whole([frames]))

    def test_does_not_change_its_input(self):
        frames = still(4) + 0.4
        before = frames.clone()
        whole([frames])
        assert torch.equal(frames, before)

    def test_of_blank_frames_is_bounded(self):
        found = whole([0.001 * torch.randn(3, 60, 8, 10)])[:, -1]
        assert found.std(dim=(1, 2)).max() < 0.0013 * LARGEST_GAIN

    def test_takes_chunks_one_at_a_time(self):
        taken = []

        def chunks():
            for index in range(3):
                taken.append(index)
                yield still(2)

        found = corrected_chunks(chunks(), REFERENCE)
        next(found)
        assert taken == [0]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"strength": 1.1}, "strength .* is 1.1"),
            ({"strength": -1}, "is -1"),
            ({"settling": 0.5}, "settles in 0.5"),
        ],
    )
    def test_out_of_range_is_refused(self, values, message):
        with pytest.raises(ValueError, match=message):
            DriftCorrection(**values)
