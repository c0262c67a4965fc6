"""Makes docs/result.jpg for the README: a defective ELPV cell (CC BY-NC-SA 4.0), its heat map, the outlined region."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from inlier import PaDiM, evaluate
from inlier.report import figures

SIDE, GAP, TEXT = 300, 12, 44


def main() -> None:
    detector = PaDiM("light").fit("elpv", categories=["mono"])
    result = evaluate(detector, "elpv", categories=["mono"]).categories["mono"]
    found = sorted(
        (case for case in result.cases if case.verdict == "defect" and case.defect), key=lambda case: -case.score
    )
    case = found[len(found) // 10]  # clear, but not the most extreme one
    picture, _, map_ = case.load()
    scale = figures.colour_scale([map_], result.pixel_threshold)
    threshold = result.pixel_threshold
    panels = [picture.convert("RGB"), figures.heat_map(map_, scale), figures.overlay(picture, map_, threshold, scale)]
    sheet = Image.new("RGB", (3 * SIDE + 4 * GAP, SIDE + 2 * GAP + TEXT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    labels = ("picture", "heat map", f"{case.verdict}, p = {case.p_value:.4f}")
    for i, (panel, label) in enumerate(zip(panels, labels)):
        left = GAP + i * (SIDE + GAP)
        sheet.paste(panel.resize((SIDE, SIDE)), (left, GAP))
        draw.text((left, SIDE + 2 * GAP), label, fill="black", font=font)
    target = Path(__file__).parent.parent / "docs" / "result.jpg"
    target.parent.mkdir(exist_ok=True)
    sheet.save(target, quality=88)
    print(target)


if __name__ == "__main__":
    main()
