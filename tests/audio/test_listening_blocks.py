"""A network that hears log-mel in blocks: the same in a stream and a whole clip, the future bounded, silence around."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio.listening_blocks import (
    BLOCKS_AT_ONCE,
    ListenerStream,
    ListeningBlocks,
    heard_in_blocks,
)
from talking_portrait.core_models.keypoint_diffusion.speech_encoder import (
    MelListener,
    SpeechEncoder,
    SpeechEncoderParameters,
)

BANDS, SILENCE = 5, -2.75
PARAMETERS = SpeechEncoderParameters(
    mel_bands=BANDS, width=6, dilations_50hz=(1, 2), dilations_25hz=(1,), kernel=3
)
REACH = 4
"""Steps on each side that the small listener hears: the stem's one, and the two blocks' one and two."""


@pytest.fixture(scope="module")
def listener() -> MelListener:
    generator = torch.Generator().manual_seed(0)
    network = MelListener(PARAMETERS)
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(std=0.4, generator=generator)
    return network.double().eval().requires_grad_(False)


def mel_of(frames, seed=0):
    return torch.randn(frames, BANDS, generator=torch.Generator().manual_seed(seed)).double()


def at_once(listener, mel, blocks):
    return heard_in_blocks(listener, mel[None], blocks, SILENCE)


def streamed(listener, mel, blocks, sizes, steps):
    stream, first, pieces = ListenerStream(listener, blocks, SILENCE), 0, []
    for size in [*sizes, len(mel)]:
        pieces.append(stream.push(mel[first : first + size]))
        first += size
    pieces.append(stream.finish(steps))
    return torch.cat([piece for piece in pieces if piece is not None], dim=2)


blocks_of_any_size = st.builds(ListeningBlocks, st.integers(1, 6), st.integers(0, 7), st.integers(0, 5))


@given(
    blocks=blocks_of_any_size,
    frames=st.integers(2, 60),
    sizes=st.lists(st.integers(0, 20), max_size=10),
)
@settings(deadline=None, max_examples=60)
def test_a_stream_in_any_pieces_is_the_whole_clip(listener, blocks, frames, sizes):
    mel, steps = mel_of(frames), frames // 2
    whole = at_once(listener, mel, blocks)
    assert whole.shape == (1, 3, steps, 6)
    torch.testing.assert_close(streamed(listener, mel, blocks, sizes, steps), whole, atol=1e-9, rtol=1e-9)


@given(blocks=blocks_of_any_size, steps=st.integers(1, 25), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=25)
def test_each_block_is_what_the_listener_makes_of_its_stretch(listener, blocks, steps, seed):
    mel = mel_of(2 * steps, seed)
    whole = at_once(listener, mel, blocks)
    for first in range(0, steps, blocks.block):
        stretch = torch.full((2 * blocks.steps, BANDS), SILENCE).double()
        for row in range(len(stretch)):
            place = 2 * (first - blocks.behind) + row
            if 0 <= place < len(mel):
                stretch[row] = mel[place]
        count = min(blocks.block, steps - first)
        expected = listener(stretch[None])[:, :, blocks.behind : blocks.behind + count]
        torch.testing.assert_close(whole[:, :, first : first + count], expected, atol=1e-9, rtol=1e-9)


def test_what_is_beyond_ahead_is_not_heard_and_what_is_within_is(listener):
    blocks = ListeningBlocks(block=4, behind=6, ahead=3)
    mel = mel_of(2 * 20)
    base = at_once(listener, mel, blocks)
    for block in range(4):
        end = 4 * block + 4
        beyond = mel.clone()
        beyond[2 * (end + 3) :] += 1
        assert torch.equal(at_once(listener, beyond, blocks)[:, :, :end], base[:, :, :end])
        within = mel.clone()
        within[2 * (end + 3) - 2 :] += 1
        assert (at_once(listener, within, blocks)[:, -1, end - 1] - base[:, -1, end - 1]).abs().max() > 1e-6


def test_the_past_is_bounded_too(listener):
    blocks = ListeningBlocks(block=4, behind=2, ahead=1)
    mel = mel_of(40)
    older = mel.clone()
    older[: 2 * 6] += 1
    base, changed = at_once(listener, mel, blocks), at_once(listener, older, blocks)
    assert torch.equal(changed[:, :, 8:], base[:, :, 8:])
    assert not torch.equal(changed[:, :, 4:8], base[:, :, 4:8])


def test_wide_blocks_hear_what_the_network_hears_of_the_whole(listener):
    """With more behind and ahead than it reaches, cutting changes nothing but at the ends."""
    mel = mel_of(60)
    whole = listener(mel[None])
    cut = at_once(listener, mel, ListeningBlocks(3, REACH + 1, REACH + 1))
    inside = slice(REACH + 1, 30 - REACH - 1)
    torch.testing.assert_close(cut[:, :, inside], whole[:, :, inside], atol=1e-9, rtol=1e-9)


def test_before_and_after_is_silence(listener):
    """Silence that is said and silence that is not there sound the same."""
    blocks, mel = ListeningBlocks(2, 4, 3), mel_of(12)
    silence = torch.full((8, BANDS), SILENCE).double()
    led = at_once(listener, torch.cat([silence, mel]), blocks)
    torch.testing.assert_close(led[:, :, 4:], at_once(listener, mel, blocks), atol=1e-9, rtol=1e-9)
    followed = at_once(listener, torch.cat([mel, silence]), blocks)
    torch.testing.assert_close(followed[:, :, :6], at_once(listener, mel, blocks), atol=1e-9, rtol=1e-9)


def test_a_long_clip_is_made_in_bounded_batches():
    sizes = []

    def listen(mel):
        sizes.append(len(mel))
        return mel[:, ::2, None].transpose(1, 2)

    mel = mel_of(2 * (2 * BLOCKS_AT_ONCE + 3))
    states = heard_in_blocks(listen, mel[None], ListeningBlocks(1, 2, 1), SILENCE)
    assert sizes == [BLOCKS_AT_ONCE, BLOCKS_AT_ONCE, 3]
    assert torch.equal(states[0, 0], mel[::2])


class TestStream:
    def test_blocks_come_as_soon_as_they_are_certain(self, listener):
        blocks, mel = ListeningBlocks(block=4, behind=6, ahead=3), mel_of(60)
        stream = ListenerStream(listener, blocks, SILENCE)
        assert stream.push(mel[:13]) is None
        assert stream.push(mel[13:14]).shape == (1, 3, 4, 6)
        assert stream.push(mel[14:21]) is None
        assert stream.push(mel[21:38]).shape == (1, 3, 12, 6)

    def test_memory_does_not_grow(self, listener):
        blocks = ListeningBlocks(block=4, behind=6, ahead=3)
        stream, held = ListenerStream(listener, blocks, SILENCE), []
        for index in range(50):
            stream.push(mel_of(7, index))
            held.append(stream._mel.untyped_storage().nbytes())
        assert max(held[10:]) <= (2 * blocks.steps + 7) * BANDS * 8

    def test_sound_beyond_the_end_is_not_heard(self, listener):
        blocks, mel = ListeningBlocks(block=4, behind=6, ahead=3), mel_of(26)
        longer = torch.cat([mel, mel_of(3, 5)])
        whole = at_once(listener, mel, blocks)
        torch.testing.assert_close(streamed(listener, longer, blocks, [9], 13), whole, atol=1e-9, rtol=1e-9)

    def test_missing_sound_is_silence(self, listener):
        blocks, mel = ListeningBlocks(block=4, behind=6, ahead=3), mel_of(20)
        filled = torch.cat([mel, torch.full((10, BANDS), SILENCE).double()])
        whole = at_once(listener, filled, blocks)
        torch.testing.assert_close(streamed(listener, mel, blocks, [3], 15), whole, atol=1e-9, rtol=1e-9)

    def test_nothing_is_left_when_all_was_made(self, listener):
        stream = ListenerStream(listener, ListeningBlocks(2, 0, 0), SILENCE)
        assert stream.finish(4) is None
        assert stream.push(mel_of(8)).shape == (1, 3, 4, 6)
        assert stream.finish(4) is None


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 0), (1, 0, -1)])
def test_impossible_blocks(sizes):
    with pytest.raises(
        ValueError, match=f"a block is {sizes[0]} steps with {sizes[1]} behind and {sizes[2]}"
    ):
        ListeningBlocks(*sizes)


def test_the_listener_is_the_first_part_of_the_pocket_models_encoder():
    torch.manual_seed(1)
    encoder = SpeechEncoder(PARAMETERS).eval()
    network = MelListener(PARAMETERS).eval()
    own = {name: value for name, value in encoder.state_dict().items() if name.startswith(("stem", "fine"))}
    network.load_state_dict(own)
    mel = torch.randn(2, 16, BANDS)
    states = network(mel)
    assert states.shape == (2, 3, 8, 6)
    torch.testing.assert_close(states[:, 0], encoder.stem(mel.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(encoder.phones(states[:, -1]), encoder(mel)[1])
