"""Who a made head is: every figure that its portrait is drawn from, out of one seed."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

IDENTITY_STREAM = 4713
"""Set before the identity's seed, so that no other generator of the same seed runs along."""

SKIN_TONES = np.array(
    [
        *((240, 206, 188), (234, 195, 170), (227, 184, 154), (210, 162, 128), (188, 138, 103)),
        *((158, 110, 80), (130, 87, 62), (102, 67, 49), (80, 53, 40)),
    ],
    np.float32,
)
"""Skin in plain daylight from the lightest to the darkest, sRGB."""
HAIR_COLOURS = {
    "black": (26, 22, 22),
    "dark brown": (54, 37, 28),
    "brown": (88, 58, 38),
    "chestnut": (112, 66, 40),
    "auburn": (138, 66, 36),
    "ginger": (184, 98, 46),
    "dark blond": (150, 116, 74),
    "blond": (205, 172, 116),
}
GREY_HAIR = (176, 174, 172)
EYE_COLOURS = {
    "dark brown": (62, 38, 24),
    "brown": (98, 62, 34),
    "hazel": (122, 96, 52),
    "green": (98, 120, 82),
    "grey": (126, 140, 148),
    "blue": (92, 134, 170),
}
HAIR_STYLES = ("bald", "buzzed", "short", "parted", "swept", "curly", "fringe", "bob", "long", "wavy", "bun")
HAIR_LIKELIHOOD = {
    "masculine": (0.09, 0.13, 0.25, 0.22, 0.12, 0.12, 0.04, 0.0, 0.02, 0.01, 0.0),
    "feminine": (0.01, 0.02, 0.05, 0.06, 0.05, 0.15, 0.10, 0.15, 0.19, 0.14, 0.08),
}
"""Of HAIR_STYLES, in their order."""
BEARDS = ("none", "stubble", "moustache", "goatee", "short beard", "full beard")
BEARD_LIKELIHOOD = (0.44, 0.20, 0.07, 0.08, 0.13, 0.08)
GLASSES = ("none", "round", "square", "thin")
GLASSES_LIKELIHOOD = (0.76, 0.09, 0.08, 0.07)
COLLARS = ("crew", "v", "shirt", "turtle")
BACKDROPS = ("plain", "gradient", "bokeh", "halo")


@dataclass(frozen=True)
class FaceForm:
    """The shape of a face. Each figure is 0 for the mean face; most lie in -2..2 and are spreads (standard deviations).

    A positive figure means wider, longer, larger, fuller or higher; of `eye_tilt` that outer corners are higher. sides:
    how unlike both halves are.
    """

    width: float
    length: float
    jaw_width: float
    chin_length: float
    chin_width: float
    cheekbones: float
    cheek_fullness: float
    nose_length: float
    nose_width: float
    nose_depth: float
    eye_size: float
    eye_opening: float
    eye_spacing: float
    eye_tilt: float
    eye_depth: float
    lip_fullness: float
    lip_width: float
    mouth_height: float
    brow_height: float
    brow_arch: float
    forehead: float
    sides: float


@dataclass(frozen=True)
class MadeIdentity:
    """One made person in one picture. Colours are sRGB 0..255.

    seed: what it was drawn from. age: years. masculine: -1 (feminine) to 1. form: the face's shape.
    pose: (pitch, yaw, roll) degrees. skin, lips, hair, iris, clothes, backdrop, second_backdrop: colours.
    redness, mottling, freckles, wrinkles, shine: 0..1. hair_style, beard, glasses, collar, backdrop_kind: names.
    hair_volume: centimetres. hairline: centimetres above the mean one; part: -1..1, where hair parts.
    curliness, grey: 0..1. brow_thickness, brow_darkness, lashes, make_up, eye_bags: 0..1.
    shoulders: half their width in centimetres. light: (azimuth, elevation) degrees; light_warmth: -1..1;
    light_contrast: 0..1. texture_seed: of the strokes.
    """

    seed: int
    age: float
    masculine: float
    form: FaceForm
    pose: tuple[float, float, float]
    skin: tuple[float, float, float]
    lips: tuple[float, float, float]
    redness: float
    mottling: float
    freckles: float
    wrinkles: float
    shine: float
    eye_bags: float
    hair_style: str
    hair: tuple[float, float, float]
    hair_volume: float
    hairline: float
    part: float
    curliness: float
    grey: float
    beard: str
    iris: tuple[float, float, float]
    brow_thickness: float
    brow_darkness: float
    lashes: float
    make_up: float
    glasses: str
    frame_colour: tuple[float, float, float]
    clothes: tuple[float, float, float]
    collar: str
    shoulders: float
    backdrop_kind: str
    backdrop: tuple[float, float, float]
    second_backdrop: tuple[float, float, float]
    light: tuple[float, float]
    light_warmth: float
    light_contrast: float
    texture_seed: int

    def figures(self) -> np.ndarray:
        """Return (M,) float64: every number it is drawn from but its seeds; names as their places in their lists."""
        lists = {
            **{"hair_style": HAIR_STYLES, "beard": BEARDS, "glasses": GLASSES},
            **{"collar": COLLARS, "backdrop_kind": BACKDROPS},
        }
        values: list[float] = [getattr(self.form, entry.name) for entry in fields(FaceForm)]
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in lists:
                values.append(lists[entry.name].index(value))
            elif entry.name not in ("seed", "texture_seed", "form"):
                values.extend(np.atleast_1d(value))
        return np.array(values, np.float64)


def made_identity(seed: int) -> MadeIdentity:
    """Return the person of a seed: the same seed, the same person.

    Raises ValueError for a negative seed.
    """
    if seed < 0:
        raise ValueError(f"the identity seed is {seed}, expected 0 or more")
    rng = np.random.default_rng([IDENTITY_STREAM, seed])
    masculine = float(np.clip(rng.choice([-0.6, 0.6]) + rng.normal(0, 0.3), -1, 1))
    age = _drawn_age(rng)
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    skin = _drawn_skin(tone, rng)
    grey = _drawn_grey(age, rng)
    return MadeIdentity(
        seed=seed,
        age=age,
        masculine=masculine,
        form=_drawn_form(masculine, age, rng),
        pose=tuple(np.clip(rng.normal(0, (2.0, 5.0, 1.8)), (-5, -12, -4), (5, 12, 4)).tolist()),
        skin=skin,
        redness=float(rng.uniform(0.2, 1.0)),
        mottling=float(rng.uniform(0.2, 0.8)),
        freckles=float(rng.uniform(0.4, 1)) if tone < 2.5 and rng.random() < 0.2 else 0.0,
        wrinkles=float(np.clip((age - 38) / 40 + rng.normal(0, 0.08), 0, 1)),
        shine=float(rng.uniform(0.1, 0.9)),
        eye_bags=float(np.clip((age - 25) / 70 + rng.normal(0, 0.15), 0, 1)),
        grey=grey,
        iris=_drawn_iris(tone, rng),
        light=(float(rng.uniform(-65, 65)), float(rng.uniform(12, 55))),
        light_warmth=float(rng.uniform(-1, 1)),
        light_contrast=float(rng.uniform(0.15, 1)),
        texture_seed=int(rng.integers(2**31)),
        **_drawn_make_up(masculine, age, skin, tone, rng),
        **_drawn_hair(masculine, age, tone, grey, rng),
        **_drawn_surroundings(masculine, age, rng),
    )


def _drawn_age(rng: np.random.Generator) -> float:
    group = rng.choice(3, p=(0.12, 0.63, 0.25))
    return float(rng.uniform(*((7, 15), (18, 48), (48, 82))[group]))


def _drawn_form(masculine: float, age: float, rng: np.random.Generator) -> FaceForm:
    """Return a shape: spreads of 1 about the mean of its sex and age."""
    child = float(np.clip((17 - age) / 9, 0, 1))
    means = {
        "jaw_width": 0.9 * masculine - 0.6 * child,
        "chin_length": 0.5 * masculine - 1.2 * child,
        "chin_width": 0.9 * masculine - 0.3 * child,
        "cheek_fullness": 1.0 * child - 0.3 * masculine,
        "nose_length": 0.3 * masculine - 1.3 * child + 0.3 * (age > 60),
        "nose_width": 0.6 * masculine - 0.3 - 0.3 * child,
        "nose_depth": 0.3 * masculine - 1.0 * child,
        "eye_size": 1.3 * child - 0.8 * masculine,
        "eye_opening": 0.7 * child - 0.3 * masculine - 0.6 * (age > 60),
        "lip_fullness": -0.6 * masculine - 0.6 * (age > 60),
        "brow_height": -0.6 * masculine + 0.3 * child,
        "brow_arch": -0.8 * masculine,
        "forehead": 0.8 * child,
    }
    values = {}
    for entry in fields(FaceForm):
        drawn = float(np.clip(rng.normal(0, 1), -2, 2))
        values[entry.name] = drawn + means.get(entry.name, 0.0)
    return FaceForm(**values)


def _drawn_skin(tone: float, rng: np.random.Generator) -> tuple[float, float, float]:
    places = np.arange(len(SKIN_TONES))
    colour = [np.interp(tone, places, SKIN_TONES[:, channel]) for channel in range(3)]
    warmth = rng.normal(0, 1)
    return _colour(np.array(colour) * (1 + np.array([0.01, 0.0, -0.035]) * warmth))


def _drawn_iris(tone: float, rng: np.random.Generator) -> tuple[float, float, float]:
    names = tuple(EYE_COLOURS)
    light_eyes = max(0.0, 0.75 - 0.25 * tone)
    name = rng.choice(names[2:]) if rng.random() < light_eyes else rng.choice(names[:2])
    return _colour(np.array(EYE_COLOURS[str(name)]) * rng.uniform(0.85, 1.2))


def _drawn_grey(age: float, rng: np.random.Generator) -> float:
    return float(np.clip((age - 45) / 28 + rng.normal(0, 0.25), 0, 1)) if age > 35 else 0.0


def _drawn_make_up(
    masculine: float, age: float, skin: tuple[float, float, float], tone: float, rng: np.random.Generator
) -> dict:
    make_up = float(rng.uniform(0, 1)) if masculine < 0 and age > 17 else 0.0
    natural = np.array(skin) * (0.86, 0.66, 0.64)
    painted = np.array([(178, 52, 62), (196, 92, 96), (150, 40, 66), (206, 110, 96)])[rng.integers(4)]
    share = 0.75 * make_up if make_up > 0.45 else 0.0
    return {
        "make_up": make_up,
        "lips": _colour(natural * (1 - share) + painted * share * (1 - 0.04 * tone)),
        "lashes": float(np.clip(0.4 - 0.3 * masculine + 0.4 * make_up + rng.normal(0, 0.1), 0, 1)),
        "brow_thickness": float(np.clip(0.5 + 0.3 * masculine + rng.normal(0, 0.18), 0.1, 1)),
        "brow_darkness": float(rng.uniform(0.5, 1)),
    }


def _drawn_hair(masculine: float, age: float, tone: float, grey: float, rng: np.random.Generator) -> dict:
    odds = np.array(HAIR_LIKELIHOOD["masculine" if masculine > 0 else "feminine"])
    odds = np.where(np.array(HAIR_STYLES) == "bald", odds * (age > 25) * (0.5 + age / 40), odds)
    style = str(rng.choice(HAIR_STYLES, p=odds / odds.sum()))
    names = tuple(HAIR_COLOURS)
    fair = rng.random() < max(0.0, 0.9 - 0.24 * tone)
    colour = np.array(HAIR_COLOURS[str(rng.choice(names[2:] if fair else names[:3]))]) * rng.uniform(
        0.85, 1.15
    )
    beard = str(rng.choice(BEARDS, p=BEARD_LIKELIHOOD)) if masculine > 0.1 and age > 19 else "none"
    receding = float(rng.uniform(0, 1.2)) * (masculine > 0) * float(np.clip((age - 25) / 40, 0, 1))
    return {
        "hair_style": style,
        "hair": _colour(colour * (1 - 0.85 * grey) + np.array(GREY_HAIR) * 0.85 * grey),
        "hair_volume": float(rng.uniform(0.5, 1.5)),
        "hairline": float(rng.uniform(-0.6, 0.5)) + receding,
        "part": float(rng.choice([-1, 1]) * rng.uniform(0.15, 0.7)),
        "curliness": float(rng.uniform(0, 1)),
        "beard": beard,
    }


def _drawn_surroundings(masculine: float, age: float, rng: np.random.Generator) -> dict:
    return {
        "glasses": str(rng.choice(GLASSES, p=GLASSES_LIKELIHOOD)),
        "frame_colour": _colour(
            np.array([(24, 22, 24), (92, 58, 36), (150, 124, 70), (60, 66, 90)])[rng.integers(4)]
        ),
        "clothes": _hue_colour(rng, (0.1, 0.65), (0.15, 0.85)),
        "collar": str(rng.choice(COLLARS, p=(0.42, 0.2, 0.26, 0.12))),
        "shoulders": 17.5
        + 1.8 * masculine
        + float(rng.normal(0, 0.8))
        - 3.0 * float(np.clip((17 - age) / 9, 0, 1)),
        "backdrop_kind": str(rng.choice(BACKDROPS)),
        "backdrop": _hue_colour(rng, (0.05, 0.45), (0.25, 0.9)),
        "second_backdrop": _hue_colour(rng, (0.05, 0.45), (0.2, 0.85)),
    }


def _hue_colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> tuple[float, float, float]:
    """Return a colour of any hue."""
    hue, strength, light = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    wheel = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return _colour(255 * light * (1 - strength * (1 - wheel)))


def _colour(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = np.clip(values, 0, 255).tolist()
    return float(red), float(green), float(blue)
