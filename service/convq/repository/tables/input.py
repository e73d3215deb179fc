"""`[input]` of a manifest: how an image becomes the input of a graph."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from convq.repository.bounds import NodeName, Number, Table, as_tuple
from convq.repository.manifest_errors import expectation


def _scales(value: float) -> float:
    """Every level times 0 is the same: nothing of the picture would be left."""
    if value == 0:
        raise ValueError("a number other than 0, as pixels are multiplied by it")
    return value


Level = Annotated[int, Field(ge=0, le=255)]
Factor = Annotated[Number, AfterValidator(_scales)]
PerChannel = Annotated[tuple[Number, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=3)]
Side = Annotated[int, Field(ge=1, le=65535)]


class Input(Table):
    """`[input]`: how an image becomes the one input of the graph.

    Sizes are in pixels and are those of the graph's input; what the image is scaled to is smaller by `pad` on every
    side. An image that has the size of the input already is taken as it is (unless `short_side` is given). `mean`, `std` and `pad_value` are in the model's own order of channels, one value for all or one each.
    """

    name: NodeName | None = None
    """The graph's input. Left out: the only one it has."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    color: Literal["gray", "rgb", "bgr", "none"] = "rgb"
    """none: no image at all. The model takes tensors of any rank, and what else stands here about images is not used."""
    dtype: Literal["uint8", "float32", "float16"] | None = None
    """What the graph takes; the graph decides, and a value given here must agree with it. For float16, inputs are made, and
    brought by jobs, as float32, and a batch is cast as a whole."""
    height: Side | None = None
    width: Side | None = None
    """Left out: the graph's; free where the graph's is free."""
    multiple_of: Annotated[int, Field(ge=1, le=4096)] = 1
    """Free sides are filled with `pad_value` at the bottom and the right up to a multiple of this."""
    resize: Literal["stretch", "crop", "letterbox", "fit", "height", "none"] = "stretch"
    """stretch: both sides, ignoring the proportions; crop: short side, then the centre, pixel for pixel as torchvision's
    Resize and CenterCrop; letterbox: fit inside, fill the rest; fit: to `short_side` and `long_side`, both sides free, fill
    to `multiple_of`; height: to the height, the width follows; none: only images of the right size."""
    short_side: Side | None = None
    """With `crop`: the short side before cropping; what is shorter than the crop is filled with `pad_value` on both ends.
    Left out: the smallest that covers the crop. With `fit`: what the shorter side is scaled to, as torchvision's Resize does."""
    long_side: Side | None = None
    """With `fit`: what the longer side has at most. Without `short_side` nothing is enlarged."""
    align: Literal["centre", "start"] = "centre"
    """With `letterbox` and `fit`: where the image lies. start: at the top left, all that is filled is right of it and below."""
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "opencv-linear"] = "bilinear"
    """Pillow's filters; all but `nearest` average over the source area when they shrink. opencv-linear: OpenCV's `INTER_LINEAR`,
    which mixes four pixels also then."""
    pad: Annotated[int, Field(ge=0, le=4096)] = 0
    """A border of `pad_value` on all four sides, inside `height` and `width`."""
    pad_value: Annotated[tuple[Level, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=3)] = (0,)
    background: Annotated[tuple[Level, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=3)] = (0,)
    """What shows through transparent pixels: one level, or red, green and blue."""
    scale: Factor = 1.0
    mean: PerChannel = (0.0,)
    std: PerChannel = (1.0,)
    """For float32 graphs: value = (pixel * scale - mean) / std, with pixels 0 to 255."""

    @property
    def channels(self) -> int:
        """1 for gray, otherwise 3; for `color` none it means nothing."""
        return 1 if self.color == "gray" else 3

    @property
    def normalises(self) -> bool:
        """Whether pixels are changed by scale, mean or std."""
        return self.scale != 1.0 or any(self.mean) or any(value != 1.0 for value in self.std)

    @field_validator("mean", "std", "pad_value", "background")
    @classmethod
    def _three_or_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) == 2:  # noqa: PLR2004  (images here have one channel or three)
            raise ValueError("one value, or one for each of three channels")
        return value

    @field_validator("std")
    @classmethod
    def _divides(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(part <= 0 for part in value):
            raise ValueError("values above 0, as pixels are divided by them")
        return value

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.color == "none" and self.model_fields_set - {"name", "color", "dtype"}:
            odd = sorted(self.model_fields_set - {"name", "color", "dtype"})
            raise ValueError(f"no {', '.join(odd)}, as color is none: there are no images")
        if self.color == "gray" and max(map(len, (self.mean, self.std, self.pad_value, self.background))) > 1:
            raise ValueError("one value each for mean, std, pad_value and background, as color is gray")
        for side, name in ((self.height, "height"), (self.width, "width")):
            if side is not None and side <= 2 * self.pad:
                raise ValueError(f"{name} above twice the pad of {self.pad}")
        if self.short_side is not None and self.resize not in ("crop", "fit"):
            raise ValueError("short_side only together with resize = 'crop' or 'fit'")
        if self.align == "start" and self.resize not in ("letterbox", "fit"):
            raise ValueError("align = 'start' only together with resize = 'letterbox' or 'fit'")
        if self.resize == "height" and self.width is not None:
            raise ValueError("no width, as resize = 'height' leaves it free")
        return self

    @model_validator(mode="after")
    def _sides_to_fit(self) -> Self:
        if self.long_side is not None and self.resize != "fit":
            raise ValueError("long_side only together with resize = 'fit'")
        if self.resize == "fit" and self.long_side is None and self.short_side is None:
            raise ValueError("long_side or short_side, or both, as resize = 'fit'")
        if self.long_side is not None and self.short_side is not None and self.long_side < self.short_side:
            raise ValueError(f"long_side of at least the short_side of {self.short_side}")
        if self.resize == "fit" and (self.height or self.width):
            raise ValueError("no height and width, as resize = 'fit' leaves them free")
        return self

    def sized(self, height: int | None, width: int | None) -> Input:
        """The same with the graph's `height` and `width` where the manifest leaves them out; None stays free."""
        if self.color == "none":
            return self
        known = {"height": self.height or height, "width": self.width or width}
        return Input.model_validate({**self.model_dump(), **known})

    @property
    def lacks(self) -> str | None:
        """The side that the resize rule needs and that neither manifest nor graph fixes, or None."""
        needs = {"stretch": ("height", "width"), "crop": ("height", "width"), "letterbox": ("height", "width")}
        sides = needs.get(self.resize, ("height",) if self.resize == "height" else ())
        return next((side for side in sides if getattr(self, side) is None), None)


def objection(key: str, value: Any) -> str:
    """Why `[input]` takes no such value for `key`, whatever else stands there: what it expects; empty where it takes it."""
    try:
        Input.model_validate({key: value})
    except ValidationError as err:
        return expectation(err)
    return ""
