"""FantasyTalking's guider for ComfyUI's samplers, without ComfyUI: which evaluations a step needs, and the formula."""

from types import SimpleNamespace

import pytest
import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.guidance import (
    GuidanceScales,
    GuidanceSchedule,
    Interval,
    Stream,
)
from talking_portrait.runtime import fantasytalking_core_guider, fantasytalking_core_weights
from talking_portrait.runtime.fantasytalking_core import STREAMS_THAT_HEAR
from talking_portrait.runtime.fantasytalking_core_guider import condition_of, new_guider, step_number

from .comfyui_stand_in import new_model, patched, stand_in_comfyui


class TestGuider:
    LEVELS = torch.tensor([1.0, 0.9, 0.6, 0.3, 0.0])

    @pytest.fixture
    def calls(self, monkeypatch):
        """Every evaluation: which conditions, which marks; each gives its number of the stream plus one."""
        found = []

        def calc_cond_batch(model, conds, x, timestep, options):
            found.append((list(conds), options["transformer_options"][STREAMS_THAT_HEAR]))
            return [
                torch.full_like(x, {"n": 1.0, "p": 2.0}[cond]) + 10.0 * hears
                for cond, hears in zip(conds, found[-1][1], strict=True)
            ]

        monkeypatch.setattr(fantasytalking_core_weights, "host", lambda: SimpleNamespace(in_comfyui=True))
        fantasytalking_core_guider._guider_class.cache_clear()
        with stand_in_comfyui(monkeypatch, calc_cond_batch):
            yield found
        fantasytalking_core_guider._guider_class.cache_clear()

    def predicted(self, schedule, level=1.0, scale=1.0, options=None):
        guider = new_guider(patched(scale=scale)[0], "p", "n", schedule)
        given = {"transformer_options": {"sample_sigmas": self.LEVELS}} | (options or {})
        x = torch.zeros(1, 2)
        return float(guider.predict_noise(x, torch.tensor([level]), given)[0, 0]), given

    def test_the_formula(self, calls):
        found, given = self.predicted(GuidanceSchedule(GuidanceScales(3.0, 7.0)))
        # v(n) + 3 (v(p) - v(n)) + 7 (v(p, sound) - v(p))
        assert found == pytest.approx(1 + 3 * (2 - 1) + 7 * (12 - 2))
        assert calls == [(["n", "p", "p"], (False, False, True))]
        assert STREAMS_THAT_HEAR not in given["transformer_options"], "what was given was changed"

    def test_streams_without_weight_are_not_computed(self, calls):
        self.predicted(GuidanceSchedule(GuidanceScales(1.0, 1.0)))
        self.predicted(GuidanceSchedule(GuidanceScales(5.0, 5.0)))
        self.predicted(GuidanceSchedule(GuidanceScales(5.0, None)))
        assert [marks for _, marks in calls] == [(True,), (False, True), (True, True)]

    def test_without_sound_no_stream_hears(self, calls):
        self.predicted(GuidanceSchedule(GuidanceScales(3.0, 7.0)), scale=0.0)
        assert calls == [(["n", "p"], (False, False))]

    def test_guidance_by_sound_ends_where_it_is_said_to(self, calls):
        schedule = GuidanceSchedule(GuidanceScales(1.0, 4.0), audio=Interval(0.0, 0.5))
        for level in (1.0, 0.9, 0.6, 0.3):
            self.predicted(schedule, level)
        assert [len(marks) for _, marks in calls] == [2, 2, 1, 1]

    def test_what_other_nodes_do_afterwards_is_done(self, calls):
        seen = {}

        def halved(arguments):
            seen.update(arguments)
            return arguments["denoised"] / 2

        options = {"sampler_post_cfg_function": [halved]}
        found, _ = self.predicted(GuidanceSchedule(GuidanceScales(3.0, 7.0)), options=options)
        assert found == pytest.approx(74 / 2)
        assert (seen["cond"], seen["uncond"], seen["cond_scale"]) == ("p", "n", 3.0)
        assert float(seen["cond_denoised"][0, 0]) == 12

    def test_replaced_guidance_is_said_to_be_left_out(self, calls, caplog):
        model = patched()[0]
        model.model_options["sampler_cfg_function"] = lambda arguments: arguments
        new_guider(model, "p", "n", GuidanceSchedule())
        assert "leaves out what other nodes do to guidance" in caplog.text

    def test_a_model_that_hears_nothing_is_refused(self, calls):
        with pytest.raises(ValueError, match="hears no sound"):
            new_guider(new_model(), "p", "n", GuidanceSchedule())

    def test_conditions_of_streams(self):
        names = [condition_of(Stream(*flags)) for flags in ((True, True), (True, False), (False, False))]
        assert names == ["positive", "prompt_without_sound", "negative"]
        assert condition_of(Stream(False, True)) == "negative"

    @pytest.mark.parametrize(
        ("level", "step"),
        [(1.0, 0), (0.9, 1), (0.90001, 1), (0.8, 1), (0.6, 2), (0.3, 3), (0.1, 3), (1.2, 0)],
    )
    def test_levels_belong_to_steps(self, level, step):
        assert step_number(level, self.LEVELS.tolist()) == step
