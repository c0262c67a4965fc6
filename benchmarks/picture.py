"""Makes docs/result.jpg for the README: a defective ELPV cell (CC BY-NC-SA 4.0), its heat map, the outlined region."""

from pathlib import Path

from inlier import PaDiM, evaluate


def main() -> None:
    detector = PaDiM("light").fit("elpv", categories=["mono"])
    result = evaluate(detector, "elpv", categories=["mono"]).categories["mono"]
    cases = [case for case in result.cases if case.prediction.verdict == "defect" and case.sample.is_defect]
    case = sorted(cases, key=lambda case: -case.score)[len(cases) // 10]  # clear, but not the most extreme one
    sheet = detector.inspect(case.sample.source).plot()
    target = Path(__file__).parent.parent / "docs" / "result.jpg"
    target.parent.mkdir(exist_ok=True)
    sheet.save(target, quality=88)
    print(target)


if __name__ == "__main__":
    main()
