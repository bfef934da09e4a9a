"""ACTalker's projections, pose guider and reading networks: the release's numbers, sizes, and what is refused."""

import pytest
import torch
from talking_portrait.core_models.face.recognition import FaceRecognitionNetwork
from talking_portrait.core_models.key_tables import KEY_TABLES
from talking_portrait.core_models.motion.expression_network import (
    ExpressionNetwork,
    ExpressionNetworkParameters,
)
from talking_portrait.core_models.motion.head_pose_network import HeadPoseNetwork, HeadPoseNetworkParameters
from talking_portrait.core_models.strict_loading import WeightMismatchError, load_strict
from talking_portrait.core_models.video_diffusion.actalker.condition_projections import (
    AudioProjection,
    AudioProjectionParameters,
    IdentityProjection,
    IdentityProjectionParameters,
    MotionProjection,
    MotionProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.actalker.pose_guider import PoseGuider, PoseGuiderParameters

from .actalker_golden import assert_agrees, case_names, filled, read_case

AUDIO_ARGUMENTS = {
    "seq_len": "rows",
    "blocks": "layers",
    "channels": "channels",
    "intermediate_dim": "hidden",
    "context_tokens": "tokens",
    "output_dim": "width",
}
IDENTITY_ARGUMENTS = {"input_dim": "features", "intermediate_dim": "hidden", "output_dim": "width"}
SMALL_AUDIO = AudioProjectionParameters(rows=3, layers=2, channels=4, hidden=8, tokens=5, width=6)
SMALL_MOTION = MotionProjectionParameters(features=7, width=12)


def renamed(arguments, names):
    return {names[key]: value for key, value in arguments.items()}


@pytest.mark.parametrize("name", case_names("audio_linear*"))
def test_audio_projection_is_the_releases(name):
    case, arrays, inputs = read_case(name)
    parameters = AudioProjectionParameters(**renamed(case["constructor"], AUDIO_ARGUMENTS))
    assert_agrees(case, arrays, {"y": filled(AudioProjection(parameters), case)(inputs["input"])})


@pytest.mark.parametrize("name", case_names("id_proj_model*"))
def test_identity_projection_is_the_releases(name):
    case, arrays, inputs = read_case(name)
    parameters = IdentityProjectionParameters(**renamed(case["constructor"], IDENTITY_ARGUMENTS))
    assert_agrees(case, arrays, {"y": filled(IdentityProjection(parameters), case)(inputs["input"])})


@pytest.mark.parametrize("name", case_names("vasa_linear*"))
def test_motion_projection_is_the_releases(name):
    """The release appends the pose outside of its module; ours does it inside."""
    case, arrays, inputs = read_case(name)
    features, projected = case["constructor"]["input_dim"], case["constructor"]["output_dim"]
    parameters = MotionProjectionParameters(features=features, width=projected + 6)
    expression, pose = inputs["input"], torch.full((*inputs["input"].shape[:-1], 6), 90.0)
    tokens = filled(MotionProjection(parameters), case)(torch.cat([expression, pose], dim=-1))
    assert_agrees(case, arrays, {"y": tokens[..., :projected]})
    assert torch.equal(tokens[..., projected:], pose * torch.tensor([1.0, 1, 1, 0, 0, 0]))


@pytest.mark.parametrize("name", case_names("pose_guider*"))
def test_pose_guider_is_the_releases(name):
    case, arrays, inputs = read_case(name)
    sizes = case["constructor"]
    widths = tuple(sizes["block_out_channels"])
    parameters = PoseGuiderParameters(
        channels_in=sizes.get("conditioning_channels", 3),
        widths=widths,
        strides=(2,) * (len(widths) - 1),
        channels=sizes["conditioning_embedding_channels"],
    )
    assert_agrees(case, arrays, {"y": filled(PoseGuider(parameters), case)(inputs["input"])})


@pytest.mark.parametrize("name", case_names("expression_model*"))
def test_expression_network_is_the_releases(name):
    case, arrays, inputs = read_case(name)
    parameters = ExpressionNetworkParameters(features=case["constructor"].get("out_feat_dim", 1024))
    assert_agrees(case, arrays, {"y": filled(ExpressionNetwork(parameters), case)(inputs["input"])})


@pytest.mark.parametrize("name", case_names("pose_model*"))
def test_head_pose_network_is_the_releases(name):
    case, arrays, inputs = read_case(name)
    assert_agrees(case, arrays, filled(HeadPoseNetwork(), case)(inputs["input"])._asdict())


@pytest.mark.parametrize("name", case_names("arcface_r50*"))
def test_face_recognition_is_the_releases(name):
    case, arrays, inputs = read_case(name)
    assert_agrees(case, arrays, {"y": filled(FaceRecognitionNetwork(), case)(inputs["input"])})


@pytest.fixture(scope="module")
def audio():
    torch.manual_seed(0)
    return AudioProjection(SMALL_AUDIO).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def motion():
    torch.manual_seed(1)
    return MotionProjection(SMALL_MOTION).eval().requires_grad_(False)


class TestUnconditional:
    def test_of_sound_is_the_projection_of_zeros(self, audio):
        tokens = audio.unconditional()
        assert tokens.shape == (1, 5, 6)
        torch.testing.assert_close(tokens, audio(torch.zeros(1, 3, 2, 4)))
        assert tokens.abs().max() > 0.1

    def test_of_motion_is_the_projection_of_zeros_with_a_head_that_looks_ahead(self, motion):
        tokens = motion.unconditional()
        assert tokens.shape == (1, 12)
        torch.testing.assert_close(tokens, motion(torch.zeros(1, 13)))
        assert tokens[:, :6].abs().max() > 0.1
        assert not tokens[:, 6:].any()

    def test_has_the_type_of_the_weights(self, audio):
        half = AudioProjection(SMALL_AUDIO).to(torch.bfloat16)
        assert half.unconditional().dtype == torch.bfloat16
        assert half.unconditional().shape == (1, 5, 6)


class TestProjections:
    def test_each_audio_token_is_normalised(self, audio):
        tokens = audio(torch.randn(2, 3, 3, 2, 4, generator=torch.Generator().manual_seed(3)))
        assert tokens.shape == (2, 3, 5, 6)
        torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)

    def test_frames_do_not_hear_each_other(self, audio):
        windows = torch.randn(4, 3, 2, 4, generator=torch.Generator().manual_seed(4))
        other = windows.clone()
        other[1] += 1
        moved = (audio(windows) != audio(other)).flatten(1).any(dim=1)
        assert moved.tolist() == [False, True, False, False]

    def test_translation_never_reaches_the_model_and_rotation_does_as_it_is(self, motion):
        rows = torch.randn(2, 13, generator=torch.Generator().manual_seed(5))
        shifted, turned = rows.clone(), rows.clone()
        shifted[:, 10:] += 1.5
        turned[:, 7:10] = torch.tensor([-170.0, 0.0, 45.0])
        assert torch.equal(motion(rows), motion(shifted))
        assert torch.equal(motion(turned)[:, 6:9], turned[:, 7:10])
        assert torch.equal(motion(turned)[:, :6], motion(rows)[:, :6])

    def test_a_small_model_may_append_nothing(self):
        bare = MotionProjection(MotionProjectionParameters(features=3, kept=0, zeroed=0, width=8))
        assert bare(torch.zeros(2, 3)).shape == (2, 8)

    @pytest.mark.parametrize("shape", [(3, 2), (2, 3, 4), (1, 3, 2, 5)])
    def test_windows_of_another_encoder_are_refused(self, audio, shape):
        with pytest.raises(ValueError, match=r"expected \(\.\.\., 3, 2, 4\)"):
            audio(torch.zeros(shape))

    def test_motion_of_another_size_is_refused(self, motion):
        with pytest.raises(ValueError, match=r"\(2, 12\), expected \(\.\.\., 13\)"):
            motion(torch.zeros(2, 12))

    def test_an_embedding_of_another_size_is_refused(self):
        with pytest.raises(ValueError, match=r"\(1, 5\), expected \(\.\.\., 4\)"):
            IdentityProjection(IdentityProjectionParameters(4, 8, 6))(torch.zeros(1, 5))

    @pytest.mark.parametrize(
        ("kind", "changes"),
        [
            (AudioProjectionParameters, {"tokens": 0}),
            (AudioProjectionParameters, {"rows": 2.5}),
            (IdentityProjectionParameters, {"width": -1}),
            (MotionProjectionParameters, {"width": 6}),
            (MotionProjectionParameters, {"kept": -1}),
        ],
    )
    def test_sizes_that_do_not_fit_are_refused(self, kind, changes):
        with pytest.raises(ValueError, match="expected"):
            kind(**changes)


class TestPoseGuider:
    SMALL = PoseGuiderParameters(widths=(4, 6, 8), strides=(2, 1), channels=5)

    def test_it_starts_as_if_it_were_not_there(self):
        assert not PoseGuider(self.SMALL)(torch.rand(1, 3, 2, 8, 8)).any()

    @pytest.mark.parametrize(("size", "expected"), [((16, 24), (8, 12)), ((9, 7), (5, 4)), ((1, 1), (1, 1))])
    def test_its_reduction_is_the_strides_and_rounds_up(self, size, expected):
        assert self.SMALL.stride == 2
        assert PoseGuider(self.SMALL)(torch.rand(2, 3, 1, *size)).shape == (2, 5, 1, *expected)

    def test_frames_are_seen_one_by_one(self):
        torch.manual_seed(6)
        guider = PoseGuider(self.SMALL)
        torch.nn.init.normal_(guider.conv_out.weight)
        masks = torch.rand(1, 3, 3, 8, 8)
        together = guider(masks)
        assert together.abs().max() > 1e-3
        for frame in range(3):
            alone = guider(masks[:, :, frame : frame + 1])
            torch.testing.assert_close(together[:, :, frame : frame + 1], alone)

    @pytest.mark.parametrize("shape", [(3, 2, 8, 8), (1, 1, 2, 8, 8), (1, 3, 0, 8, 8)])
    def test_masks_of_another_shape_are_refused(self, shape):
        with pytest.raises(ValueError, match="batch, 3, frames"):
            PoseGuider(self.SMALL)(torch.zeros(shape))

    def test_a_stride_is_needed_between_each_two_widths(self):
        with pytest.raises(ValueError, match="3 widths need 2 strides"):
            PoseGuiderParameters(widths=(4, 6, 8), strides=(2,))
        with pytest.raises(ValueError, match="at least 1"):
            PoseGuiderParameters(strides=(2, 0, 2))


class TestReadingNetworks:
    SMALL_EXPRESSION = ExpressionNetworkParameters((1, 2), (4, 8), features=5)
    SMALL_POSE = HeadPoseNetworkParameters((1, 2), (4, 8), groups=2)

    def test_any_size_of_picture_and_network(self):
        pictures = torch.rand(2, 3, 33, 40)
        assert ExpressionNetwork(self.SMALL_EXPRESSION)(pictures).shape == (2, 5)
        pose = HeadPoseNetwork(self.SMALL_POSE)(pictures)
        assert (pose.rotation.shape, pose.translation.shape) == ((2, 3), (2, 3))

    def test_a_pose_stays_in_its_range_and_zero_logits_look_ahead(self):
        network = HeadPoseNetwork(self.SMALL_POSE)
        layer = network.head_pose_net.fc
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        pictures = torch.rand(1, 3, 32, 32)
        assert not torch.cat(network(pictures)).any()
        layer.bias.data = torch.tensor([99.0, -99.0, 0.0, 99.0, -99.0, 0.0])
        pose = network(pictures)
        torch.testing.assert_close(pose.rotation, torch.tensor([[180.0, -180.0, 0.0]]))
        torch.testing.assert_close(pose.translation, torch.tensor([[2.0, -2.0, 0.0]]))

    @pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 0, 32)])
    def test_pictures_of_another_shape_are_refused(self, shape):
        for network in (ExpressionNetwork(self.SMALL_EXPRESSION), HeadPoseNetwork(self.SMALL_POSE)):
            with pytest.raises(ValueError, match="batch, 3, height, width"):
                network(torch.zeros(shape))


def test_a_projection_loads_strictly_and_all_faults_are_listed(tmp_path, audio):
    path, table = tmp_path / "audio_linear-1.pth", KEY_TABLES["actalker_audio_linear"]
    state = audio.state_dict()
    torch.save(state, path)
    loaded = load_strict(lambda: AudioProjection(SMALL_AUDIO), path, table)
    windows = torch.randn(1, 3, 2, 4)
    assert torch.equal(loaded(windows), audio(windows))
    del state["proj2.bias"]
    state |= {"proj4.bias": torch.zeros(1), "norm.weight": torch.ones(7)}
    torch.save(state, path)
    with pytest.raises(WeightMismatchError) as fault:
        load_strict(lambda: AudioProjection(SMALL_AUDIO), path, table)
    for part in (
        "Missing: ['proj2.bias']",
        "Unexpected: ['proj4.bias']",
        "norm.weight is (7,), expected (6,)",
    ):
        assert part in str(fault.value)
