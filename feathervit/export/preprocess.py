"""Creates an ONNX graph from the pixels of an image to the input of the model, equivalent to `data/image.py`.

The graph makes the image square, resizes it once (antialiased, bilinear, in float32), rounds and normalises. Resize with
`exclude_outside` weights border pixels like PyTorch and Pillow. Without it, they would differ by up to 19 grey levels. The size
is given for all four axes, because ONNX Runtime's optimiser mishandles the shorter form with `axes`.
"""

from __future__ import annotations

import onnx
from onnx import parser

from ..config import ImageConfig

OPSET = 18  # the first with antialiased Resize
IR_VERSION = 8  # IR version of the release with this opset, so that older runtimes load the file
RUNTIME = "1.17"  # oldest version of ONNX Runtime that was tested with an exported file

_SIDES = """
   height = Shape<start=1, end=2>(image)
   width = Shape<start=2, end=3>(image)
"""
_SQUARE = {
    "crop": _SIDES
    + """
   side = Min(height, width)
   spare_y = Sub(height, side)
   spare_x = Sub(width, side)
   top = Div(spare_y, two)
   left = Div(spare_x, two)
   start = Concat<axis=0>(top, left)
   end_y = Add(top, side)
   end_x = Add(left, side)
   stop = Concat<axis=0>(end_y, end_x)
   square = Slice(image, start, stop, axes)
""",
    "pad": _SIDES
    + """
   side = Max(height, width)
   spare_y = Sub(side, height)
   spare_x = Sub(side, width)
   top = Div(spare_y, two)
   left = Div(spare_x, two)
   bottom = Sub(spare_y, top)
   right = Sub(spare_x, left)
   pads = Concat<axis=0>(zero, top, left, zero, zero, bottom, right, zero)
   square = Pad(image, pads)
""",
    "stretch": "   square = Identity(image)",
}

_LEVELS = """
   missing = IsNaN(image)
   known = Where(missing, least, image)
   inside = Clip(known, least, white)
   parts = Mul(inside, most)
   share = Div(parts, white)
   levels = Round(share)
"""


def preprocessing(images: ImageConfig, img_size: int, channels: int) -> onnx.ModelProto:
    """Returns a graph from `image` [batch, height, width, channels] to `seen` and `normalised`.

    Both outputs are float32 [batch, channels, img_size, img_size]. `seen` holds integer grey levels from 0 to 255. `image`
    holds uint8 levels, or float32 values if the configuration has a scale.
    """
    kind, levels, square = "uint8", "", _SQUARE[images.fit]
    if images.scale is not None:
        kind, levels, square = "float", _LEVELS, square.replace("(image", "(levels")
    white = float(images.scale or 255)
    mean, std = (", ".join(repr(float(v)) for v in values) for values in (images.mean, images.std))
    proto = parser.parse_model(f"""
<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]>
preprocess ({kind}[batch, height, width, {channels}] image) =>
   (float[batch, {channels}, {img_size}, {img_size}] seen, float[batch, {channels}, {img_size}, {img_size}] normalised)
<float[1, {len(images.mean)}, 1, 1] mean = {{{mean}}}, float[1, {len(images.std)}, 1, 1] std = {{{std}}},
 float least = {{0.0}}, float most = {{255.0}}, float white = {{{white}}}, int64[2] sides = {{{img_size}, {img_size}}},
 int64[1] zero = {{0}}, int64[1] two = {{2}}, int64[2] axes = {{1, 2}}>
{{
   {levels}
   {square}
   planes = Transpose<perm=[0, 3, 1, 2]>(square)
   exact = Cast<to=1>(planes)
   leading = Shape<start=0, end=2>(planes)
   sizes = Concat<axis=0>(leading, sides)
   resized = Resize<mode="linear", antialias=1, exclude_outside=1,
                    coordinate_transformation_mode="half_pixel">(exact, , , sizes)
   rounded = Round(resized)
   seen = Clip(rounded, least, most)
   unit = Div(seen, most)
   centred = Sub(unit, mean)
   normalised = Div(centred, std)
}}""")
    keep_used(proto.graph)
    return proto


def keep_used(graph: onnx.GraphProto) -> None:
    """Removes unused constants."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
