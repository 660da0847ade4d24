"""Of the series that a scanner makes the T1w is chosen for what it is, not for a part of its name or its number."""

from pathlib import Path
from typing import Any

import pytest

from brainscm.cohort.series import Series, choose_series


def series(description: str, number: int, voxel_mm: float = 1.0, **sidecar: Any) -> Series:
    fields = {"SeriesDescription": description, "SeriesNumber": number, **sidecar}
    return Series(Path(f"{number}.nii.gz"), fields, (1.0, 1.0, voxel_mm), [])


def taken(*candidates: Series) -> list[str]:
    choices = choose_series(candidates)
    assert [choice.series for choice in choices] == list(candidates)
    assert all(choice.reason for choice in choices)
    return [f"{choice.series.number} {choice.series.description}" for choice in choices if choice.taken]


@pytest.mark.parametrize(
    "description",
    ["MPRAGE", "t1_mprage_sag_p2_iso", "T1w", "3DT1", "T1W_3D_TFE", "Ax T1 FSPGR", "SAG BRAVO", "mp2rage",
     "T1-weighted", "mocoMEMPRAGE_220FOV RMS", "t1mprage", "T1 MPRAGE 2", "ir-fspgr", "tfl3d", "MP-RAGE REPEAT",
     "sT1W_3D_FFE", "EFGRE3D", "T1w_MPR_vNav", "t1_mpr_ns_sag", "T1W1mm", "WIPT1", "T1 for hippocampus"],
)  # fmt: skip
def test_what_is_called_a_t1w_is_one(description: str) -> None:
    assert taken(series("localizer", 1), series("ep2d_pace", 2), series(description, 3)) == [f"3 {description}"]


@pytest.mark.parametrize(
    "description",
    ["BOLD_rest1_SBRef", "t2_flair", "FLAIR", "T1_MAP", "mp2rage_T1map", "T2 space", "dti_t1", "mp2rage_INV1",
     "MPRAGE_phase", "tof_3d", "T1 sag C-SPINE", "t1_carotids", "T1 mapping", "T1_MOLLI", "mp2rage_T1_Images",
     "MPRAGE SUB", "T1_SUBTRACTION", "AX T1 ORBITS", "COR T1 PITUITARY", "ABCD_T1w_setter", "T1 DYNAMIC", "T1 PSIR",
     "t1_vibe_dixon_F", "T1 black-blood", "MT_T1", "Phantom MPRAGE", "T1w_pha", "qT1"],
)  # fmt: skip
def test_what_is_called_otherwise_is_none_even_alone(description: str) -> None:
    assert taken(series(description, 1)) == []
    assert taken(series(description, 1), series("whatever", 2)) == []


def test_a_nameless_series_is_taken_where_it_is_alone_and_could_be_one() -> None:
    assert taken(series("whatever", 1)) == ["1 whatever"]
    assert taken(series("task1", 1), series("t2_tse", 2)) == []
    assert taken(series("whatever", 1, EchoTime=0.09)) == []
    assert taken(series("tfl", 1, SequenceName="*tfl3d1_16ns"), series("whatever", 2)) == ["1 tfl"]


@pytest.mark.parametrize(
    ("worse", "better", "why"),
    [
        (series("t1 axial", 1, 5.0), series("MPRAGE", 2), "thicker slices"),
        (series("MPRAGE", 1, ImageType=["DERIVED", "SECONDARY", "MPR"]), series("MPRAGE", 2), "derived"),
        (series("MPRAGE GD", 1), series("MPRAGE", 2), "contrast agent"),
        (series("T1 AX +C", 1), series("T1 AX", 2), "contrast agent"),
        (series("T1 POST CONTRAST", 1), series("T1 PRE CONTRAST", 2), "contrast agent"),
        (series("t1 axial", 1, 5.0), series("3D T1 w/o contrast", 2), "thicker slices"),
        (series("t1 axial", 1, 5.0), series("T1 3D NON-CONTRAST", 2), "thicker slices"),
        (series("t1 se", 1, MRAcquisitionType="2D"), series("MPRAGE", 2), "not 3D"),
        (series("memprage", 1), series("memprage RMS", 2), "one echo"),
        (series("MPRAGE", 1, ImageType=["M", "ND"]), series("MPRAGE", 2, ImageType=["M", "NORM"]), "coil's intensity"),
        (series("mp2rage_T1_MAP", 1), series("mp2rage_UNI", 2, ImageType=["DERIVED", "UNI"]), "another contrast"),
        (series("mp2rage", 1, ImageType=["M", "INV2"]), series("mp2rage", 2, ImageType=["UNI"]), "image type is INV2"),
    ],
)
def test_of_two_the_better_is_taken_whatever_their_order(worse: Series, better: Series, why: str) -> None:
    for candidates in ((worse, better), (better, worse)):
        assert taken(*candidates) == [f"2 {better.description}"]
        (reason,) = [choice.reason for choice in choose_series(candidates) if not choice.taken]
        assert why in reason


def test_repeats_of_the_best_are_its_runs_and_images_of_one_series_are_not() -> None:
    assert taken(series("MPRAGE", 2), series("MPRAGE", 5), series("MPRAGE", 6, 1.5)) == ["2 MPRAGE", "5 MPRAGE"]
    assert taken(series("MPRAGE", 2, EchoNumber=1), series("MPRAGE", 2, EchoNumber=2)) == ["2 MPRAGE"]
