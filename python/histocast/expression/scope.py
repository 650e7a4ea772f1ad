"""For what a bundle's predictions, intervals and accuracies hold, in sentences that card, page and files share."""

from __future__ import annotations

from histocast.bundle import Bundle, Metric

SAME_PATIENT = "same patient only"
WITHIN_SLIDE = "comparable within a slide only"
BETWEEN_SLIDES = "comparable between slides"


def describe_scope(bundle: Bundle) -> dict[str, str]:
    """Sentences by what they are about: ``slides``, ``intervals`` and ``val_pcc``."""
    return {
        "slides": _describe_slides(bundle),
        "intervals": _describe_intervals(bundle),
        "val_pcc": _describe_accuracy(bundle),
    }


def _describe_slides(bundle: Bundle) -> str:
    if bundle.fusion.standardise_within_slide:
        return f"{WITHIN_SLIDE}: features are standardised over each slide, which removes what differs between two"
    if bundle.scale.relative_to_section:
        return f"{WITHIN_SLIDE}: values are relative to the section, so that the mean of a slide says nothing"
    known = {metric.name: metric for metric in bundle.metrics if metric.subject == "model"}
    crop = known.get("crop_slope")
    if crop is None:
        return f"{BETWEEN_SLIDES} by how features are standardised; how well was not measured"
    return (
        f"{BETWEEN_SLIDES}: windows of a section predicted as slides keep {crop.value:.2f} of the contrast between them; "
        f"{_describe_slide_means(known)}"
    )


def _describe_slide_means(known: dict[str, Metric]) -> str:
    pearson, slope = known.get("slide_means_pearson"), known.get("slide_means_slope")
    if pearson is None or slope is None:
        return "how predicted means of slides follow measured ones is not known"
    return f"predicted means of held-out sections follow measured ones with r {pearson.value:.2f} and slope {slope.value:.2f} ({pearson.genes})"


def _describe_intervals(bundle: Bundle) -> str:
    calibration = bundle.calibration
    how = f"{calibration.method}, {_count(calibration.sections, 'section')}"
    if calibration.patients is None:
        return f"calibrated for unknown patients ({how}): no coverage is claimed"
    if calibration.patients == 1:
        return (
            f"{SAME_PATIENT}: calibrated on sections of one patient ({how}); "
            "for another patient no coverage is claimed, and it can be far lower"
        )
    return (
        f"meant to hold {calibration.coverage_percent} % of measured values of patients that were not seen, "
        f"calibrated on {_count(calibration.patients, 'patient')} ({how})"
    )


def _describe_accuracy(bundle: Bundle) -> str:
    patients = bundle.calibration.patients
    if patients is None:
        return "Pearson on held-out training spots; of which patients is not known"
    if patients == 1:
        return f"Pearson on held-out sections of the same patient ({SAME_PATIENT})"
    return f"Pearson on held-out patients among the {patients} of the training"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
