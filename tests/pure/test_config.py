"""Settings: presets, files, and values that make no sense."""

import pytest

from cellwright.errors import SettingError
from cellwright.text.config import SECTIONS, from_dict, from_run, load_preset, preset_names, section_fields

WRONG = [
    ({"epochs": 0}, "epochs is at least 1 and below 2147483648; got 0; write --epochs with such a value"),
    ({"hidden_size": -3}, "hidden_size is at least 1 and below 1048576; got -3"),
    ({"learning_rate": 0.0}, "learning_rate is above 0; got 0.0"),
    ({"learning_rate": float("nan")}, "learning_rate is above 0; got nan"),
    ({"learning_rate": float("inf")}, "learning_rate is above 0; got inf"),
    ({"validation": 1.0}, "validation is at least 0 and below 1; got 1.0"),
    ({"dropout": 1.5}, "dropout is at least 0 and below 1; got 1.5"),
    ({"cleaning": "some"}, "cleaning is one of letters, none; got 'some'"),
    ({"optimizer": "adam"}, "optimizer is one of adamw, sgd; got 'adam'"),
    ({"steps": "35"}, "steps is a whole number; got '35'"),
    ({"tied": 1}, "tied is true or false; got 1"),
    ({"seed": 2**63}, "seed is at least 0 and below"),
    ({"hidden_size": 10**20}, "hidden_size is at least 1 and below"),
    ({"text": "book.txt"}, "text is a list of names or paths; got 'book.txt'"),
    ({"text": (1, 2)}, "text is a list of names or paths; got (1, 2)"),
    ({"bidirectional": True}, "a language model reads forward only: a backward direction would see the very token"),
    ({"tied": True}, "got embedding_size=64 and hidden_size=256; write --embedding-size 256"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_a_value_that_makes_no_sense_is_named(changes, words):
    with pytest.raises(SettingError) as caught:
        load_preset("default").replace(**changes)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_complete_and_survives_its_dictionary(name):
    settings = load_preset(name)
    assert from_dict(settings.to_dict(), "here") == settings


def test_names_of_settings_are_unique_for_they_are_flags_too():
    names = [name for section in SECTIONS for name in section_fields(section)]
    assert len(names) == len(set(names))


def test_a_preset_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    text = (load_preset.__globals__["PRESETS"] / "d2l.toml").read_text()
    path.write_text(text.replace("steps = 35", "steps = 20"))
    assert load_preset(str(path)).training.steps == 20
    path.write_text(text.replace("steps = 35", "stepps = 20"))
    with pytest.raises(SettingError, match="missing or unknown: stepps, steps"):
        load_preset(str(path))
    path.write_text("[data")
    with pytest.raises(SettingError, match="a preset is a TOML file"):
        load_preset(str(path))


@pytest.mark.parametrize("name", ["nosuch", "../default", "missing.toml"])
def test_an_unknown_preset_is_refused(name):
    with pytest.raises(SettingError, match=r"a preset is one of d2l, default, large"):
        load_preset(name)


def test_a_run_from_before_a_setting_did_without_it():
    older = load_preset("default").to_dict()
    del older["training"]["seconds"]
    assert from_run(older, "a run") == load_preset("default")
    with pytest.raises(SettingError, match="missing or unknown: seconds"):
        from_dict(older, "a preset")
