"""The list of logged names."""

from lit_rlhf.metrics import LOGGED_NAMES

VALIDATION_ONLY = {
    "val/ranking/kendall_tau",
    "val/ranking/top1",
    "val/calibration/ece",
    "val/bias/length_correlation",
}


def test_validation_names_are_those_of_training_behind_a_prefix() -> None:
    names = {name for name in LOGGED_NAMES if name.startswith("val/")}
    assert names >= VALIDATION_ONLY
    for name in names - VALIDATION_ONLY:
        bare = name.removeprefix("val/")
        assert bare in LOGGED_NAMES or f"train/{bare}" in LOGGED_NAMES, name
