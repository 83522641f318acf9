"""Writers of annotated sets in other forms, from the records that a set was read as."""

import base64
import io
import json
import posixpath
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from resnets.detect.data.masks import decode_mask, encode_outline


def records(source, title):
    """{image stem: (width, height, [(class, box, outline)])} of a part."""
    found = {}
    for each in source.load(title).images:
        stem = posixpath.splitext(posixpath.basename(each.path or each.name))[0]
        rows = [
            (source.classes[o.label], o.box, o.segmentation) for o in each.objects if not o.crowd
        ]
        found[stem] = (each.width, each.height, rows)
    return found


def copy_images(source, title, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for each in source.load(title).images:
        name = posixpath.basename(each.path)
        (folder / name).write_bytes(source.store.read(each.path))
    return folder


def image_names(source, title):
    paths = [each.path for each in source.load(title).images]
    return {posixpath.splitext(posixpath.basename(p))[0]: posixpath.basename(p) for p in paths}


def polygons(outline):
    return [np.asarray(p).reshape(-1, 2) for p in outline] if isinstance(outline, list) else []


def write_yolo(source, parts, root, *, outlines=False, flat=False):
    """`flat`: train/images and train/labels, else images/train and labels/train."""
    for title, role in parts.items():
        pair = [root / role / k if flat else root / k / role for k in ("images", "labels")]
        copy_images(source, title, pair[0])
        pair[1].mkdir(parents=True)
        for stem, (width, height, rows) in records(source, title).items():
            lines = []
            for name, (left, top, right, bottom), outline in rows:
                number = source.classes.index(name)
                drawn = polygons(outline) if outlines else []
                if drawn:
                    corners = (np.concatenate(drawn) / (width, height)).reshape(-1)
                    lines.append(" ".join([str(number), *(f"{v:.8f}" for v in corners)]))
                    continue
                box = [(left + right) / 2 / width, (top + bottom) / 2 / height]
                box += [(right - left) / width, (bottom - top) / height]
                lines.append(" ".join([str(number), *(f"{v:.8f}" for v in box)]))
            (pair[1] / f"{stem}.txt").write_text("\n".join(lines) + "\n" if lines else "")
    names = ", ".join(json.dumps(name) for name in source.classes)
    where = {r: f"../{r}/images" if flat else f"images/{r}" for r in parts.values()}
    text = "".join(f"{role}: {folder}\n" for role, folder in where.items())
    (root / "data.yaml").write_text(f"{text}nc: {len(source.classes)}\nnames: [{names}]\n")


def write_labelme(source, title, root, *, outlines=False):
    copy_images(source, title, root)
    names = image_names(source, title)
    for stem, (width, height, rows) in records(source, title).items():
        shapes = []
        for number, (name, (left, top, right, bottom), outline) in enumerate(rows):
            drawn = polygons(outline) if outlines else []
            for corners in drawn:
                shapes.append(
                    {
                        "label": name,
                        "points": corners.tolist(),
                        "group_id": number if len(drawn) > 1 else None,
                        "shape_type": "polygon",
                    }
                )
            if outlines and isinstance(outline, dict):
                mask = decode_mask(encode_outline(outline, (height, width)))
                buffer = io.BytesIO()
                Image.fromarray(mask * 255).convert("1").save(buffer, "PNG")
                text = base64.b64encode(buffer.getvalue()).decode()
                points = [[0, 0], [width - 1, height - 1]]
                shapes.append({"label": name, "points": points, "shape_type": "mask", "mask": text})
            elif not drawn:
                points = [[left, top], [right, bottom]]
                shapes.append({"label": name, "points": points, "shape_type": "rectangle"})
        document = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"..\\photos\\{names[stem]}",
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        (root / f"{stem}.json").write_text(json.dumps(document))


def write_cvat(source, parts, root, *, outlines=False):
    rows_of = []
    for title, role in parts.items():
        copy_images(source, title, root / "images" / role)
        names = image_names(source, title)
        for stem, (width, height, rows) in records(source, title).items():
            shapes = []
            for name, box, outline in rows:
                label = f'label={quoteattr(name)} source="manual" occluded="0" z_order="0"'
                drawn = polygons(outline) if outlines else []
                if outlines and isinstance(outline, dict):
                    mask = decode_mask(encode_outline(outline, (height, width))).reshape(-1)
                    edges = np.flatnonzero(np.diff(mask)) + 1
                    runs = np.diff([0, *edges, len(mask)]).tolist()
                    runs = [0, *runs] if mask[0] else runs
                    rle = ", ".join(map(str, runs))
                    place = f'left="0" top="0" width="{width}" height="{height}"'
                    shapes.append(f'<mask {label} rle="{rle}" {place}/>')
                elif len(drawn) == 1:
                    points = ";".join(f"{x:.4f},{y:.4f}" for x, y in drawn[0])
                    shapes.append(f'<polygon {label} points="{points}"></polygon>')
                else:
                    edges = dict(zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True))
                    text = " ".join(f'{key}="{value:.4f}"' for key, value in edges.items())
                    shapes.append(
                        f'<box {label} {text}><attribute name="occluded">no</attribute></box>'
                    )
            rows_of.append(
                f'<image id="{len(rows_of)}" name={quoteattr(f"{role}/{names[stem]}")}'
                f' subset="{role}"'
                f' width="{width}" height="{height}">{"".join(shapes)}</image>'
            )
    labels = "".join(f"<label><name>{name}</name></label>" for name in source.classes)
    meta = f"<meta><project><labels>{labels}</labels></project></meta>"
    text = f"<annotations><version>1.1</version>{meta}{''.join(rows_of)}</annotations>"
    Path(root / "annotations.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}')


def same_records(one, other, *, tolerance=0.01, outlines=False):
    """AssertionError unless both have the same images with the same objects in order."""
    assert one.keys() == other.keys()
    count = 0
    for stem, (width, height, rows) in one.items():
        assert other[stem][:2] == (width, height)
        assert [row[0] for row in other[stem][2]] == [row[0] for row in rows]
        for (_, box, outline), (_, found, drawn) in zip(rows, other[stem][2], strict=True):
            if not outlines:
                np.testing.assert_allclose(found, box, atol=tolerance)
            elif isinstance(outline, dict):
                size = (height, width)
                mask = decode_mask(encode_outline(outline, size))
                assert np.array_equal(decode_mask(encode_outline(drawn, size)), mask)
            else:
                pairs = zip(polygons(outline), polygons(drawn), strict=True)
                for corners, again in pairs:
                    np.testing.assert_allclose(again, corners, atol=tolerance)
            count += 1
    return count
